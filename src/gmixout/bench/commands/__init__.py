"""The commands, one file each: plain typed functions, whose signatures define their options."""
