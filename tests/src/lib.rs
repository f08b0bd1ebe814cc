//! Tests over the whole house: the seeded simulator that runs the production
//! loop in a made-up world, and the scenarios an operator can read and write.

pub mod scenario;
pub mod sim;
