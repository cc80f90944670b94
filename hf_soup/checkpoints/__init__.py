"""Reading and writing of weights on disk, on the Hub and in memory."""
