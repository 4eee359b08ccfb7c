"""A vision-language-action policy whose fast weights W align themselves to the robot they run on.

Knows no HTTP and starts no thread: `server` composes this package.
"""
