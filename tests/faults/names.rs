//! Names that are long, or that change what a terminal shows.
