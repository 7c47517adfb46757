"""Reading and writing of BIDS datasets; together with reports and simulation all that touches files."""
