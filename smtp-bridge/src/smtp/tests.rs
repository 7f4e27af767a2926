//! Whole conversations: the session alone, the driver over a pipe, and `deliver` against `serve`.

mod backend;
mod chunking;
mod delivering;
mod driving;
mod smuggling;
mod talking;
