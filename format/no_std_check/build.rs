//! Links the C runtime explicitly, since there is no `std` to do it.

fn main() {
    println!("cargo::rustc-link-lib=c");
}
