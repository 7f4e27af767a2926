//! Inputs made of seeds: each is a function of seed, number of the call and corpus, and of nothing else.

/// Longest input, in bytes.
pub(crate) const INPUT_MAX: usize = 256 * 1024;
/// Longest input of most calls: parsers see more of them in the same time.
const USUAL_MAX: usize = 8 * 1024;
/// Bytes that mean something in one of the languages spoken here, and those next to a bound.
const TELLING: &[u8] = b"\r\n\t \0\"'()<>[]{}:;,.@=?*%\\/-_+~^&#\x1b\x7f\x80\xc3\xe2\xf0\xff\x01";

/// SplitMix64: small, seedable and even enough to choose places by.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 where there is none.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn of<'a, T>(&mut self, choices: &'a [T]) -> Option<&'a T> {
        choices.get(self.below(choices.len()))
    }

    /// A range of `bytes` of at most `length_max`.
    fn range(&mut self, bytes: &[u8], length_max: usize) -> std::ops::Range<usize> {
        let start = self.below(bytes.len() + 1);
        let length = self.below((bytes.len() - start).min(length_max) + 1);
        start..start + length
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// The input of call `number`.
pub(crate) fn input(seed: u64, number: u64, corpus: &[Vec<u8>]) -> Vec<u8> {
    if let Some(untouched) = usize::try_from(number).ok().and_then(|number| corpus.get(number)) {
        return untouched.clone();
    }
    let mut draw = Draw(seed ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93));
    let mut bytes = match draw.below(16) {
        0 => noise(&mut draw),
        _ => draw.of(corpus).cloned().unwrap_or_default(),
    };
    for _ in 0..=draw.below(6) {
        mutate(&mut draw, &mut bytes, corpus);
    }
    let longest = if draw.below(64) == 0 {
        INPUT_MAX
    } else {
        USUAL_MAX.max(bytes.len().min(20_000))
    };
    bytes.truncate(longest);
    bytes
}

/// Bytes of all values, or of telling ones only.
fn noise(draw: &mut Draw) -> Vec<u8> {
    let length = draw.below(600);
    match draw.below(2) {
        0 => draw.bytes(length),
        _ => (0..length).filter_map(|_| draw.of(TELLING).copied()).collect(),
    }
}

fn mutate(draw: &mut Draw, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let place = draw.below(bytes.len());
    match draw.below(10) {
        0 => edit(bytes, place, |byte| *byte ^= 1 << draw.below(8)),
        1 => edit(bytes, place, |byte| {
            *byte = draw.of(TELLING).copied().unwrap_or_default()
        }),
        2 => edit(bytes, place, |byte| {
            *byte = byte.wrapping_add(draw.below(9) as u8).wrapping_sub(4)
        }),
        3 => drop(bytes.drain(draw.range(bytes, 64))),
        4 => {
            let length = draw.below(16);
            insert(bytes, place, &draw.bytes(length));
        }
        5 => {
            let letter = draw.of(TELLING).copied().unwrap_or_default();
            insert(bytes, place, &vec![letter; 1 << draw.below(10)]);
        }
        6 => repeat(draw, bytes, place),
        7 => splice(draw, bytes, place, corpus),
        8 => bytes.truncate(place),
        _ => {
            let range = draw.range(bytes, 200);
            let piece = bytes[range].to_vec();
            insert(bytes, place, &piece);
        }
    }
}

fn edit(bytes: &mut [u8], place: usize, change: impl FnOnce(&mut u8)) {
    if let Some(byte) = bytes.get_mut(place) {
        change(byte);
    }
}

fn insert(bytes: &mut Vec<u8>, place: usize, piece: &[u8]) {
    bytes.splice(place..place, piece.iter().copied());
}

/// A piece many times over: what is harmless once may nest, or cost the square of its length.
fn repeat(draw: &mut Draw, bytes: &mut Vec<u8>, place: usize) {
    let piece = bytes[draw.range(bytes, 80)].to_vec();
    let room = INPUT_MAX.saturating_sub(bytes.len()) / piece.len().max(1);
    let times = (1 << draw.below(15)).min(room);
    insert(bytes, place, &piece.repeat(times));
}

/// Goes on with a piece of another seed.
fn splice(draw: &mut Draw, bytes: &mut Vec<u8>, place: usize, corpus: &[Vec<u8>]) {
    let Some(other) = draw.of(corpus) else { return };
    let piece = &other[draw.range(other, 4_096)];
    if draw.below(2) == 0 {
        bytes.truncate(place);
    }
    insert(bytes, place.min(bytes.len()), piece);
}

#[test]
fn an_input_depends_on_seed_and_number_alone_and_is_bounded() {
    let corpus = [b"one seed".to_vec(), vec![7; 300]];
    let mut different = 0;
    for number in 0..2_000 {
        let first = input(1, number, &corpus);
        assert!(first == input(1, number, &corpus) && first.len() <= INPUT_MAX);
        different += usize::from(first != input(2, number, &corpus));
    }
    assert!(different > 1_900, "{different}");
}
