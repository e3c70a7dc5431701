"""The words that the parts of Splatfleet share: pure values, the standard library and numpy only."""
