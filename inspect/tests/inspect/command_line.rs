//! The command line in awkward use: full outputs, paths before commands, words that are not
//! commands, and ambiguous names.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::{command, in_terminal, inspect, on, sample_store};

/// Directory names that must be escaped, and their escaped form.
const NAMES: [(&[u8], &str); 4] = [
    (b"esc\x1b[31mred\nline", r"esc\x1b[31mred\nline"),
    (b"non\xffutf8", r"non\xffutf8"),
    (br"back\slash", r"back\\slash"),
    (b"gnp.\xe2\x80\xaetxt", r"gnp.\xe2\x80\xaetxt"),
];

#[test]
fn output_to_a_full_device_is_exit_code_two_for_everything_that_prints() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    let store = store.to_str().unwrap();
    for args in [
        &["--help"][..],
        &["-h"],
        &["help"],
        &["help", "get"],
        &["get", "--help"],
        &["--version"],
        &["completions", "bash"],
        &["man"],
        &[store],
        &["--json", store],
        &["keys", store],
        &["get", store, "pear"],
    ] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = command().args(args).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains("cannot write to standard output"), "{args:?}: {stderr}");
    }
    for args in [&["--help"][..], &["--version"], &["verify", "--help"]] {
        let ran = inspect(args);
        assert_eq!((ran.code, &ran.stderr[..]), (0, ""), "{args:?}");
        assert!(!ran.stdout.is_empty());
    }
}

#[test]
fn a_path_may_precede_its_command() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    let path = store.to_str().unwrap();
    for (before, behind) in [
        (&[path, "keys", "--json"][..], &["keys", path, "--json"][..]),
        (&["--json", path, "segments"], &["--json", "segments", path]),
        (&["--color", "never", path, "batches", "--all"], &["batches", path, "--all"]),
        (&[path, "get", "pear"], &["get", path, "pear"]),
        (&[path, "get", "keys"], &["get", path, "keys"]),
        (&[path, "keys", "--limit", "2"], &["keys", path, "--limit", "2"]),
    ] {
        let (before, behind) = (inspect(before), inspect(behind));
        assert_eq!((before.code, before.text()), (behind.code, behind.text()), "{behind:?}");
    }
    // A store named like a command.
    let named = dir.path().join("keys");
    crate::support::copy(&store, &named);
    let run = |args: &[&str]| command().current_dir(dir.path()).args(args).output().unwrap();
    assert_eq!(run(&["keys", "keys"]).stdout, run(&["./keys", "keys"]).stdout);
    assert_eq!(run(&["keys", "keys"]).status.code(), Some(0));
    for args in [&[path, "man"][..], &[path, "completions", "bash"]] {
        let ran = inspect(args);
        assert_eq!(ran.code, 2);
        assert!(ran.stderr.contains("takes no path"), "{ran:?}");
    }
}

#[test]
fn an_unknown_command_is_reported_and_not_the_path_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    let path = store.to_str().unwrap();
    for args in [&["stats", path][..], &[path, "stats"], &["--json", "stats", "absent"]] {
        let ran = inspect(args);
        assert_eq!(ran.code, 2, "{args:?}");
        let start = "partd-inspect: there is no command `stats`; the commands are segments, ";
        assert!(ran.stderr.starts_with(start), "{ran:?}");
    }
    let ran = inspect([OsStr::from_bytes(b"\x1b[31m\xff"), store.as_os_str()]);
    assert!(ran.stderr.contains(r"there is no command `\x1b[31m\xff`"), "{ran:?}");
}

#[test]
fn paths_are_escaped_as_keys_are_in_text_and_in_json() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    for (name, shown) in NAMES {
        let path = dir.path().join(OsStr::from_bytes(name));
        crate::support::copy(&store, &path);
        fs::write(path.join(OsStr::from_bytes(name)), "no file of a store").unwrap();
        fs::write(path.join("0000000000000005.seg"), "damaged").unwrap();
        let shown_path = format!("{}/{shown}", dir.path().display());
        let ran = on(&path, &["--json"]);
        let document = ran.json();
        assert_eq!(document["path"], shown_path.as_str());
        assert_eq!(document["other_files"][0], shown);
        let file = document["health"]["problems"][0]["file"].as_str().unwrap();
        assert_eq!(file, format!("{shown_path}/0000000000000005.seg"));
        for args in [&[][..], &["segments"], &["keys"], &["verify"], &["map"]] {
            check_plain(&on(&path, args).text(), &shown_path, args);
        }
        let new = dir.path().join(OsStr::from_bytes(&[name, b" new"].concat()));
        for (command, new) in [("export", new.clone()), ("salvage", add(&new, " store"))] {
            let ran = inspect([OsStr::new(command), path.as_os_str(), new.as_os_str()]);
            check_plain(&ran.text(), shown, &[command]);
            let again = inspect([OsStr::new(command), path.as_os_str(), new.as_os_str()]);
            assert_eq!(again.code, 2);
            check_plain(&again.stderr, shown, &[command]);
        }
        let missing = add(&path, " absent");
        for args in [&[][..], &["keys"], &["dump"], &["watch"]] {
            let ran = on(&missing, args);
            assert_eq!(ran.code, 2, "{ran:?}");
            check_plain(&ran.stderr, &format!("{shown} absent"), args);
        }
        // The same in a terminal, where clap itself colours the text that it quotes.
        for args in [&[path.as_os_str()][..], &[OsStr::new("keys"), path.as_os_str()]] {
            let (text, _) = in_terminal(args, &[]);
            assert!(!text.contains("\x1b[31mred") && !text.contains('\u{202e}'), "{text}");
            assert!(args.len() > 1 || text.contains(&shown_path), "{text}");
        }
        let (text, code) =
            in_terminal(&[OsStr::new("keys"), OsStr::new("--sort"), path.as_os_str()], &[]);
        assert_eq!(code, 2);
        assert!(!text.contains("\x1b[31mred") && !text.contains('\u{202e}'), "{text}");
    }
    let plain = dir.path().join("sp ace ü \"quoted\"");
    crate::support::copy(&store, &plain);
    assert_eq!(on(&plain, &["--json"]).json()["path"], plain.to_str().unwrap());
    assert!(on(&plain, &[]).text().contains(plain.to_str().unwrap()));
}

#[test]
fn sweep_escapes_the_names_that_it_finds() {
    let dir = tempfile::tempdir().unwrap();
    for (name, shown) in NAMES {
        let parent = dir.path().join(OsStr::from_bytes(name));
        let store = parent.join("partd-tmp-0123456789abcdef");
        fs::create_dir_all(&store).unwrap();
        fs::write(store.join(OsStr::from_bytes(name)), "").unwrap();
        let ran = inspect([OsStr::new("sweep"), parent.as_os_str(), OsStr::new("--wide")]);
        check_plain(&ran.text(), shown, &["sweep"]);
        let ran = inspect([OsStr::new("sweep"), parent.as_os_str(), OsStr::new("--json")]);
        let document = ran.json();
        let directory = format!("{}/{shown}", dir.path().display());
        assert_eq!(document["path"], directory.as_str(), "{document:#}");
        let found = &document["stores"][0];
        assert_eq!(found["path"], format!("{directory}/partd-tmp-0123456789abcdef"));
        assert_eq!(found["why"], format!("holds {shown}, which is not part of a store"));
    }
}

fn add(path: &Path, more: &str) -> PathBuf {
    let mut longer = path.as_os_str().to_owned();
    longer.push(more);
    longer.into()
}

/// Checks that a text contains `shown` and no terminal control characters.
#[track_caller]
fn check_plain(text: &str, shown: &str, args: &[&str]) {
    let is_plain = |c: char| c == '\n' || !(c.is_control() || c == '\u{202e}' || c == '\u{fffd}');
    assert!(text.chars().all(is_plain), "{args:?}: {text:?}");
    if !matches!(args, ["segments" | "keys" | "map"]) || text.contains("damage") {
        assert!(text.contains(shown), "{args:?}: {text:?} without {shown}");
    }
}
