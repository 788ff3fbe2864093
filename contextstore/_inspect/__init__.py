"""What a store holds, for whoever looks at it: the command line, a page, a notebook."""
