//! The web page, compiled in: see and steer everything in a browser.

pub mod chart;
