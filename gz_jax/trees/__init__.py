"""The surveys' decision trees as files, and the value that is made of one."""
