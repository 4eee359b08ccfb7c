"""The policy: vision tower, language prefix, action expert with W, alignment expert."""
