//! Memory is given back to nobody here.

pub fn give_back() {}
