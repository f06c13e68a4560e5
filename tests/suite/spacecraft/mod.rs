//! Spacecraft as a whole: scheduled, streamed, captured, stored, and accounted for to the last
//! datagram.

mod clocks;
mod ends;
mod harbour;
mod whole;
