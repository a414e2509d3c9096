//! Replays a fuzzing corpus in an ordinary test.
//!
//! In: a folder with one input per file, and the function that the fuzzer calls. The function sees every file as it is,
//! and then changed copies of them, the same ones in every run. What always holds: a file named `bad-…` is refused and
//! every other one accepted, so that a corpus that has gone stale is noticed.
//!
//! With `FUZZ_SECONDS` in the environment each target runs that long, with other changes each time; that is fuzzing
//! without the knowledge of what the code does, for machines that have no nightly toolchain. An input at which the
//! function panics is kept in `fuzz/artifacts/<target>/`, where cargo-fuzz keeps its own.

mod mutate;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use mutate::Mutator;

/// Set to a number of seconds, it turns a replay into a search.
const SECONDS: &str = "FUZZ_SECONDS";

/// What a target makes of an input: whether it was accepted. Broken invariants are panics.
pub type Target = fn(&[u8]) -> bool;

/// A test of the name of each target, in the module below the targets: how many changed copies each replays.
#[macro_export]
macro_rules! replays {
    ($($target:ident: $mutations:literal,)+) => {
        $(#[test]
        fn $target() {
            $crate::replay(env!("CARGO_MANIFEST_DIR"), stringify!($target), $mutations, super::$target);
        })+
    };
}

/// Replays `fuzz/corpus/<name>` of the crate at `manifest_dir` (its `CARGO_MANIFEST_DIR`), and `mutations` changed
/// copies.
///
/// # Panics
/// Where the target does; if a file is accepted that should not be, or the other way round; if there are no files.
pub fn replay(manifest_dir: &str, name: &str, mutations: usize, target: Target) {
    let fuzz = Path::new(manifest_dir).join("fuzz");
    let corpus = read(&fuzz.join("corpus").join(name));
    let artifacts = fuzz.join("artifacts").join(name);
    for (file, input) in &corpus {
        let accepted = run(target, input, &artifacts);
        let expected = !file.starts_with("bad-");
        assert_eq!(
            accepted, expected,
            "corpus {name}/{file}: accepted is {accepted}, its name says {expected}"
        );
    }
    let inputs: Vec<Vec<u8>> = corpus.into_iter().map(|(_, input)| input).collect();
    match seconds() {
        None => {
            let mut mutator = Mutator::new(0, &inputs);
            for _ in 0..mutations {
                run(target, &mutator.next(), &artifacts);
            }
        }
        Some(time) => search(name, &inputs, time, |input| run(target, input, &artifacts)),
    }
}

fn search(name: &str, inputs: &[Vec<u8>], time: Duration, run: impl Fn(&[u8]) -> bool) {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut mutator = Mutator::new(since_epoch.as_nanos() as u64, inputs);
    let end = Instant::now() + time;
    let (mut runs, mut accepted) = (0_u64, 0_u64);
    while Instant::now() < end {
        let input = mutator.next();
        runs += 1;
        if run(&input) {
            accepted += 1;
            // What is accepted and differs from everything before is where new ground begins.
            mutator.learn(input);
        }
    }
    report(name, runs, accepted);
}

#[expect(clippy::print_stdout, reason = "the result of a search that somebody started by hand")]
fn report(name: &str, runs: u64, accepted: u64) {
    println!("{name}: {runs} inputs, {accepted} of them accepted");
}

fn seconds() -> Option<Duration> {
    let text = std::env::var(SECONDS).ok()?;
    Some(Duration::from_secs(text.parse().expect("FUZZ_SECONDS is a number of seconds")))
}

/// Runs the target; keeps the input if it panics.
fn run(target: Target, input: &[u8], artifacts: &Path) -> bool {
    catch_unwind(AssertUnwindSafe(|| target(input))).unwrap_or_else(|panic| {
        let kept = keep(input, artifacts);
        let shown =
            kept.as_ref().map_or_else(|| input.escape_ascii().to_string(), |path| path.display().to_string());
        complain(&shown);
        resume_unwind(panic)
    })
}

#[expect(clippy::print_stderr, reason = "the input belongs beside the message of the panic")]
fn complain(input: &str) {
    eprintln!("the input was {input}");
}

fn keep(input: &[u8], artifacts: &Path) -> Option<PathBuf> {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let path = artifacts.join(format!("crash-{:016x}", hasher.finish()));
    std::fs::create_dir_all(artifacts).ok()?;
    std::fs::write(&path, input).ok()?;
    Some(path)
}

/// Name and content of each file, by name.
fn read(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let files =
        std::fs::read_dir(folder).unwrap_or_else(|error| panic!("read {}: {error}", folder.display()));
    let mut inputs: Vec<(String, Vec<u8>)> = files
        .map(|file| {
            let path = file.expect("a folder that was opened can be listed").path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let input =
                std::fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
            (name, input)
        })
        .collect();
    assert!(!inputs.is_empty(), "{} has no files", folder.display());
    inputs.sort();
    inputs
}
