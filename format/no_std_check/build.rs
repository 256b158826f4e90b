//! The C runtime is linked by hand, since no `std` does it.

fn main() {
    println!("cargo::rustc-link-lib=c");
}
