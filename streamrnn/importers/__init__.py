"""Models of other libraries, read into a graph of ours."""
