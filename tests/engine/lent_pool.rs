//! The layers over a store work in the thread pool of its options, or of the task that calls them.

use std::sync::{Arc, Mutex};
use std::thread;

use partd::{Buffer, Dict, Encode, Partd, Scoped, SegmentLog};

#[test]
fn layers_encode_and_decode_in_the_pool_of_the_stores_options_or_of_the_calling_task() {
    let pool = |name: &'static str| {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(2);
        Arc::new(threads.thread_name(move |_| name.to_owned()).build().unwrap())
    };
    let dir = tempfile::tempdir().unwrap();
    let options = SegmentLog::options().thread_pool(pool("lent"));
    let log = options.open(dir.path().join("store")).unwrap();
    let names = Arc::new(Mutex::new(Vec::new()));
    let note = |bytes: &[u8]| {
        names.lock().unwrap().push(thread::current().name().unwrap_or_default().to_owned());
        Ok(bytes.to_vec())
    };
    let store = Scoped::new(Buffer::new(Dict::new(), Arc::new(log), 1 << 20), "scope");
    let concat = |parts: Vec<Vec<u8>>| Ok(parts.concat());
    let below =
        Encode::from_fns(|v: &[u8]| Ok(v.to_vec()), |v: &[u8]| Ok(v.to_vec()), concat, store);
    let p = Encode::from_fns(note, note, concat, below);
    let keys = || 0..8_u32;
    let mut rounds = 0;
    let mut work = |expected: &str| loop {
        names.lock().unwrap().clear();
        p.append(keys().map(|key| (key, vec![7; 100_000]))).unwrap();
        p.get_many(keys()).unwrap();
        p.lens(&keys().map(Into::into).collect::<Vec<_>>()).unwrap();
        let found = names.lock().unwrap().clone();
        assert!(found.len() >= 24, "{found:?}");
        // A pool is used once one of its threads has answered.
        match found.iter().all(|name| name == expected) {
            true => return,
            false => assert!(rounds < 1000, "{found:?}"),
        }
        rounds += 1;
        thread::sleep(std::time::Duration::from_millis(1));
        p.clear().unwrap();
    };
    work("lent");
    pool("task").install(|| work("task"));
}
