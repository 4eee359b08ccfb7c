"""The three-expert policy: vision tower, language prefix, action expert with W, alignment expert."""
