"""First drafts of captions, by a tagger or a captioner; people read them over afterwards."""
