//! Several processes at once, which are killed, stopped, forked, and come and go; one behaviour per
//! file.
//!
//! One test binary, since each binary links the engine again. To run a part:
//! `cargo test --test processes kill_loop::`

mod backups;
mod full_file_systems;
mod history;
mod hostile_day;
mod kill_loop;
mod memory_maps;
mod overlay;
mod rights;
mod short_lived;
mod small_disks;
mod soak;
mod surroundings;
#[cfg(feature = "snappy")]
mod threads;
mod writers_and_readers;

/// The entry point of the children; see `partd_testkit::children`.
#[test]
#[ignore = "the children of the other tests run it"]
fn child() {
    partd_testkit::children::roles::play_among(&[
        ("client", history::runs::play),
        ("compacts beside a child", small_disks::compact_beside_a_child),
        ("fills up", full_file_systems::fill_up),
        ("maps", memory_maps::exhaust),
        ("process", surroundings::live),
        ("overlay reader", overlay::read),
        ("vandal", hostile_day::vandal::play),
        ("visitor", rights::visit),
        ("worker", hostile_day::worker::play),
        #[cfg(feature = "snappy")]
        ("threads", threads::play),
    ]);
}
