"""Reading the formats that recordings and pictures come in."""
