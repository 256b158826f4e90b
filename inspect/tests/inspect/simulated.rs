//! Writes the images of the crash simulation to files. On each, the values that the inspector lists
//! and the engine's recovery restores must be the same.
//!
//! An ordinary run compares a thousand images, spread over all workloads, modes and moments.
//! `PARTD_IMAGES=100000 cargo test -p partd-inspect --test inspect simulated -- --nocapture`
//! compares more.

use std::fs;
use std::path::Path;

use crate::agreement::{Outcome, compare, images, workshop};
use crate::sim::cuts::{Choices, Mode};
use crate::sim::image::Image;
use crate::sim::script::{Recording, run};
use crate::sim::timeline::Timeline;
use crate::sim::workloads::ALL;
use crate::sim::{Rng, STORE};
use crate::support::adopt;

/// Writes the store of an image to a directory; `false` if the image has none.
fn spill(image: &Image, dir: &Path) -> bool {
    let mut any = false;
    for (path, file) in &image.files {
        let Ok(name) = path.strip_prefix(STORE) else { continue };
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join(name), file.bytes()).unwrap();
        any |= name.extension().is_some_and(|extension| extension == "seg")
            || name == Path::new("control");
    }
    // On the simulated disk, the control file was the original.
    adopt(dir);
    any
}

/// Compares about `wanted` images of one workload in one mode; returns how many there were.
fn compare_some(
    recording: &Recording,
    mode: Mode,
    wanted: u64,
    rng: &mut Rng,
) -> Result<u64, String> {
    let timeline = || Timeline::new(&recording.disk, &recording.log, mode.unit_len(), 0);
    let mut moments = 0;
    let mut first = timeline();
    while let Some(changed) = first.pass() {
        moments += u64::from(changed.map_err(|violation| violation.text)?);
    }
    let dir = workshop();
    let (mut timeline, mut due, mut made) = (timeline(), 0, 0);
    while let Some(changed) = timeline.pass() {
        if !changed.map_err(|violation| violation.text)? {
            continue;
        }
        due += wanted;
        let units = timeline.units();
        let mut all = Vec::new();
        while due >= moments {
            due -= moments;
            if all.is_empty() {
                all = Choices::new(&timeline, &units, mode, rng).all(&timeline, &units);
            }
            let choice = &all[rng.below(all.len() as u64) as usize];
            let image = dir.path().join("image");
            if spill(&timeline.image(&units, choice), &image) {
                made += 1;
                match compare(&image) {
                    Ok(Outcome::Same) => {}
                    Ok(Outcome::BothDamaged) => {
                        let kept = dir.keep();
                        return Err(format!("a crash looks like damage, in {}", kept.display()));
                    }
                    Err(why) => {
                        let kept = dir.keep();
                        return Err(format!("in {}: {why}", kept.display()));
                    }
                }
            }
            if image.exists() {
                fs::remove_dir_all(&image).unwrap();
            }
        }
    }
    Ok(made)
}

#[test]
fn inspector_and_engine_agree_on_the_images_of_the_crash_simulation() {
    let (seed, wanted) = (1, images(1000));
    println!("seed {seed}, about {wanted} images");
    // About a fifth of the images are from before the store exists.
    let each = (wanted * 3 / 2).div_ceil((ALL.len() * Mode::ALL.len()) as u64);
    let mut made = 0;
    for workload in ALL {
        let steps = (workload.make)(&mut Rng(seed));
        let recording = run(&steps, seed, None).unwrap_or_else(|v| panic!("{}", v.text));
        for mode in Mode::ALL {
            let mut rng = Rng(seed ^ mode.unit_len() << 32);
            match compare_some(&recording, mode, each, &mut rng) {
                Ok(images) => made += images,
                Err(why) => panic!("{}, {mode:?}, seed {seed}: {why}", workload.name),
            }
        }
    }
    println!("{made} images");
    assert!(made >= wanted, "only {made} of {wanted} images");
}
