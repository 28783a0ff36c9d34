#include "engine/core/rng.h"

#include "engine/core/simd.h"

namespace engine {

uint64_t derive_key(uint64_t seed, std::string_view purpose) {
  // Eight characters at a time through Philox, so that keys of similar names have nothing in common.
  uint64_t key = seed;
  for (size_t begin = 0; begin <= purpose.size(); begin += 8) {
    uint64_t word = 0;
    for (size_t i = begin; i < begin + 8 && i < purpose.size(); ++i) {
      word |= static_cast<uint64_t>(static_cast<unsigned char>(purpose[i])) << (8 * (i - begin));
    }
    Philox4 mixed = philox(key, word, purpose.size());
    key = mixed[0] | static_cast<uint64_t>(mixed[1]) << 32;
  }
  return key;
}

uint64_t uniform_below(uint64_t bits, uint64_t bound) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>((static_cast<Wide>(bits) * bound) >> 64);
}

namespace {

// Elements 16 b to 16 b + 15: eight pairs of uniforms, the pair i gives lanes i (cosine) and i + 8 (sine).
void normal_block(uint64_t key, uint64_t block, float* lanes) {
  float radius_uniform[16] = {}, angle_uniform[16] = {};
  for (int quarter = 0; quarter < 4; ++quarter) {
    Philox4 bits = philox(key, block * 4 + static_cast<uint64_t>(quarter));
    for (int pair = 0; pair < 2; ++pair) {
      int lane = quarter * 2 + pair;
      radius_uniform[lane] = uniform_from_bits(bits[static_cast<size_t>(pair * 2)]) + 0x1p-25f;  // never 0
      angle_uniform[lane] = uniform_from_bits(bits[static_cast<size_t>(pair * 2 + 1)]);
      radius_uniform[lane + 8] = radius_uniform[lane];
      angle_uniform[lane + 8] = angle_uniform[lane];
    }
  }
  simd::F16 radius = simd::sqrt(simd::broadcast(-2.0f) * simd::log(simd::load(radius_uniform)));
  simd::SinCos turn = simd::sincos(simd::load(angle_uniform) * simd::broadcast(6.28318531f));
  float cosine[16], sine[16];
  simd::store(cosine, radius * turn.cos);
  simd::store(sine, radius * turn.sin);
  for (int lane = 0; lane < 8; ++lane) {
    lanes[lane] = cosine[lane];
    lanes[lane + 8] = sine[lane];
  }
}

}  // namespace

void fill_normal(float* values, int64_t first, int64_t count, uint64_t key, float deviation) {
  float lanes[16];
  int64_t block = -1;
  for (int64_t i = 0; i < count; ++i) {
    int64_t element = first + i;
    if (element / 16 != block) normal_block(key, static_cast<uint64_t>(block = element / 16), lanes);
    values[i] = lanes[element % 16] * deviation;
  }
}

}  // namespace engine
