"""X-Wing (draft-connolly-cfrg-xwing-kem) over ML-KEM-768 (FIPS 203), for the second implementation: plain and slow.

Names are those of FIPS 203. X25519 is libsodium's. Nothing here runs in constant time: for tests alone.
"""

import hashlib

import nacl.bindings

Q, N, K, ETA, DU, DV = 3329, 256, 3, 2, 10, 4
LABEL = rb"\.//^" + b"\\"
PUBLIC, CIPHERTEXT = 1_216, 1_120


def _reversed7(at):
    return int(f"{at:07b}"[::-1], 2)


ZETAS = [pow(17, _reversed7(at), Q) for at in range(128)]
GAMMAS = [pow(17, 2 * _reversed7(at) + 1, Q) for at in range(128)]


def _ntt(f):
    f, k, length = list(f), 1, 128
    while length >= 2:
        for start in range(0, N, 2 * length):
            zeta, k = ZETAS[k], k + 1
            for j in range(start, start + length):
                t = zeta * f[j + length] % Q
                f[j + length], f[j] = (f[j] - t) % Q, (f[j] + t) % Q
        length //= 2
    return f


def _inverse_ntt(f):
    f, k, length = list(f), 127, 2
    while length <= 128:
        for start in range(0, N, 2 * length):
            zeta, k = ZETAS[k], k - 1
            for j in range(start, start + length):
                t = f[j]
                f[j], f[j + length] = (t + f[j + length]) % Q, zeta * (f[j + length] - t) % Q
        length *= 2
    return [value * 3303 % Q for value in f]


def _times(f, g):
    h = []
    for at, gamma in enumerate(GAMMAS):
        a0, a1, b0, b1 = f[2 * at], f[2 * at + 1], g[2 * at], g[2 * at + 1]
        h += [(a0 * b0 + a1 * b1 * gamma) % Q, (a0 * b1 + a1 * b0) % Q]
    return h


def _plus(*polynomials):
    return [sum(values) % Q for values in zip(*polynomials)]


def _encode(width, f):
    bits = sum(value << width * at for at, value in enumerate(f))
    return bits.to_bytes(32 * width, "little")


def _decode(width, octets):
    bits = int.from_bytes(octets, "little")
    values = [bits >> width * at & (1 << width) - 1 for at in range(N)]
    return [value % Q for value in values] if width == 12 else values


def _compress(width, f):
    return [((value << width) * 2 + Q) // (2 * Q) % (1 << width) for value in f]


def _decompress(width, f):
    return [(value * Q * 2 + (1 << width)) >> width + 1 for value in f]


def _sample_ntt(seed):
    stream, values, at = hashlib.shake_128(seed).digest(3 * 1_024), [], 0
    while len(values) < N:
        low, middle, high = stream[at : at + 3]
        at += 3
        values += [value for value in (low + 256 * (middle % 16), middle // 16 + 16 * high) if value < Q]
    return values[:N]


def _noise(seed, number):
    bits = int.from_bytes(hashlib.shake_256(seed + bytes([number])).digest(64 * ETA), "little")
    pairs = ((bits >> 4 * at & 3, bits >> 4 * at + 2 & 3) for at in range(N))
    return [(bin(x).count("1") - bin(y).count("1")) % Q for x, y in pairs]


def _matrix(rho):
    return [[_sample_ntt(rho + bytes([j, i])) for j in range(K)] for i in range(K)]


def _g(octets):
    digest = hashlib.sha3_512(octets).digest()
    return digest[:32], digest[32:]


def _parts(octets, size):
    return [octets[at : at + size] for at in range(0, len(octets), size)]


def _key_gen(d):
    rho, sigma = _g(d + bytes([K]))
    a = _matrix(rho)
    s = [_ntt(_noise(sigma, at)) for at in range(K)]
    e = [_ntt(_noise(sigma, K + at)) for at in range(K)]
    t = [_plus(*(_times(a[i][j], s[j]) for j in range(K)), e[i]) for i in range(K)]
    return b"".join(_encode(12, f) for f in t) + rho, s


def _encrypt(ek, m, r):
    t, rho = [_decode(12, part) for part in _parts(ek[: 384 * K], 384)], ek[384 * K :]
    a = _matrix(rho)
    y = [_ntt(_noise(r, at)) for at in range(K)]
    u = [
        _plus(_inverse_ntt(_plus(*(_times(a[j][i], y[j]) for j in range(K)))), _noise(r, K + i)) for i in range(K)
    ]
    mu = _decompress(1, _decode(1, m))
    v = _plus(_inverse_ntt(_plus(*(_times(t[j], y[j]) for j in range(K)))), _noise(r, 2 * K), mu)
    return b"".join(_encode(DU, _compress(DU, f)) for f in u) + _encode(DV, _compress(DV, v))


def _decrypt(s, c):
    u = [_decompress(DU, _decode(DU, part)) for part in _parts(c[: 32 * DU * K], 32 * DU)]
    v = _decompress(DV, _decode(DV, c[32 * DU * K :]))
    product = _inverse_ntt(_plus(*(_times(s[j], _ntt(u[j])) for j in range(K))))
    w = [(x - y) % Q for x, y in zip(v, product)]
    return _encode(1, _compress(1, w))


def _ml_kem_encapsulate(ek, m):
    key, r = _g(m + hashlib.sha3_256(ek).digest())
    return key, _encrypt(ek, m, r)


def _ml_kem_decapsulate(ek, s, z, c):
    m = _decrypt(s, c)
    key, r = _g(m + hashlib.sha3_256(ek).digest())
    return key if _encrypt(ek, m, r) == c else hashlib.shake_256(z + c).digest(32)


def _combine(ss_m, ss_x, ct_x, pk_x):
    return hashlib.sha3_256(ss_m + ss_x + ct_x + pk_x + LABEL).digest()


def _expand(seed):
    expanded = hashlib.shake_256(seed).digest(96)
    ek, s = _key_gen(expanded[:32])
    return ek, s, expanded[32:64], expanded[64:]


def public(seed):
    ek, _, _, sk_x = _expand(seed)
    return ek + nacl.bindings.crypto_scalarmult_base(sk_x)


def encapsulate(pk, random):
    """The shared secret and the ciphertext, from 64 random bytes."""
    ek, pk_x = pk[:1184], pk[1184:]
    ss_m, ct_m = _ml_kem_encapsulate(ek, random[:32])
    ct_x = nacl.bindings.crypto_scalarmult_base(random[32:])
    ss_x = nacl.bindings.crypto_scalarmult(random[32:], pk_x)
    return _combine(ss_m, ss_x, ct_x, pk_x), ct_m + ct_x


def decapsulate(seed, ct):
    ek, s, z, sk_x = _expand(seed)
    ct_m, ct_x = ct[:1088], ct[1088:]
    ss_x = nacl.bindings.crypto_scalarmult(sk_x, ct_x)
    return _combine(_ml_kem_decapsulate(ek, s, z, ct_m), ss_x, ct_x, nacl.bindings.crypto_scalarmult_base(sk_x))
