"""The trainers. An engine is a pure pair: a plan in its words, and its output lines as events."""
