//! One function per thing that someone can do that changes something.
