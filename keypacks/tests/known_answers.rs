//! The committed vectors are what this crate makes. A difference is a change of the protocol: it needs a new version,
//! not new vectors.

use std::path::Path;

use serde_json::Value;

#[path = "../examples/vectors/main.rs"]
#[allow(dead_code, reason = "its main writes the files, which this test only reads")]
mod vectors;

#[test]
fn the_vectors_are_made_again_byte_for_byte() {
    for (name, made) in vectors::all() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        let committed: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(made == committed, "{name} differs from what is made now");
    }
}
