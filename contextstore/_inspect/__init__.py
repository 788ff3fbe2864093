"""What a store holds, for whoever looks at it: plain functions over the public calls."""
