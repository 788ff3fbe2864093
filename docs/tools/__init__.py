"""What the pages are made and checked with: the reference of the calls, the site, the links."""
