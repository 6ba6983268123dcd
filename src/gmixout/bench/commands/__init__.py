"""The commands, a file each: plain typed functions, from whose signatures come their options."""
