//! Tests with the operators of DataFusion that spill, one subject a file.

mod common;
mod following;
mod given_store;
mod lifetime;
mod limits;
mod operators;
