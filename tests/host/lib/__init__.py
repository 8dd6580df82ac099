"""The words in which the stories of the emulated host are told."""
