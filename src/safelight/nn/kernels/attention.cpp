// Softmax attention in bf16 for x86 with AVX-512 and its bf16 products; scores, weights' sums and results are float
// until they are stored. Keys are visited in chunks, with the softmax kept up as they come (Milakov & Gimelshein, arXiv
// 1805.02867), so that scores never leave the cache.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

using bf16 = uint16_t;

namespace {

constexpr long WIDE = 64;   // keys of a product
constexpr long TALL = 6;    // queries of a product: 24 sums, 4 columns and 1 row fill the 32 registers
constexpr long ROWS = 24;   // queries of a block
constexpr long KEYS = 128;  // keys of a chunk

template <class T>
struct Scratch {
  T* data;
  explicit Scratch(long count) : data((T*)std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64)) {}
  ~Scratch() { std::free(data); }
  Scratch(const Scratch&) = delete;
};

// A tensor (b, n, heads, d) by its strides; d lies close.
struct View {
  const bf16* data;
  const long* stride;
  const bf16* at(long b, long n, long head) const { return data + b * stride[0] + n * stride[1] + head * stride[2]; }
};

// c (R, 16 J), or what it held too, = a (R, k) times b (k / 2, 16 J, 2).
template <int R, int J, bool ADD>
inline void product(const bf16* a, long lda, const bf16* b, long ldb, float* c, long ldc, long k) {
  __m512 sum[R][J];
#pragma GCC unroll 6
  for (int r = 0; r < R; r++)
    for (int j = 0; j < J; j++) sum[r][j] = ADD ? _mm512_loadu_ps(c + r * ldc + 16 * j) : _mm512_setzero_ps();
  for (long i = 0; i < k; i += 2) {
    __m512bh column[J];
    for (int j = 0; j < J; j++) column[j] = (__m512bh)_mm512_loadu_si512(b + i * ldb + 32 * j);
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
      int pair;
      std::memcpy(&pair, a + r * lda + i, 4);
      const __m512bh one = (__m512bh)_mm512_set1_epi32(pair);
      for (int j = 0; j < J; j++) sum[r][j] = _mm512_dpbf16_ps(sum[r][j], one, column[j]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; r++)
    for (int j = 0; j < J; j++) _mm512_storeu_ps(c + r * ldc + 16 * j, sum[r][j]);
}

template <int J, bool ADD>
void products(const bf16* a, long lda, const bf16* b, long ldb, float* c, long ldc, long rows, long k) {
  long r = 0;
  for (; r + TALL <= rows; r += TALL) product<TALL, J, ADD>(a + r * lda, lda, b, ldb, c + r * ldc, ldc, k);
  for (; r < rows; r++) product<1, J, ADD>(a + r * lda, lda, b, ldb, c + r * ldc, ldc, k);
}

// 2^x for x <= 0, to a few units in the seventh place: a polynomial about the nearest whole number.
inline __m512 power(__m512 x) {
  const __m512 whole = _mm512_roundscale_ps(x, 0), rest = _mm512_sub_ps(x, whole);
  __m512 y = _mm512_set1_ps(1.33335581e-3f);
  for (float c : {9.61812911e-3f, 5.55041087e-2f, 2.40226507e-1f, 6.93147181e-1f, 1.0f})
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(c));
  return _mm512_scalef_ps(y, whole);
}

struct Attention {
  View q, k, v;
  bf16* y;
  long b, n, m, heads, d, wide;  // wide: d as whole vectors

  // Keys as (m / 64, d / 2, 64, 2), values as (m / 2, wide, 2).
  void pack(long one, bf16* keys, bf16* values) const {
    const long batch = one / heads, head = one % heads;
    for (long i = 0; i < m; i++) {
      const bf16 *key = k.at(batch, i, head), *value = v.at(batch, i, head);
      bf16* to = keys + i / WIDE * d * WIDE + i % WIDE * 2;
      for (long c = 0; c < d; c += 2) std::memcpy(to + c * WIDE, key + c, 4);
      to = values + i / 2 * 2 * wide + i % 2;
      for (long c = 0; c < wide; c++) to[2 * c] = c < d ? value[c] : 0;
    }
  }

  void block(long one, long first, long rows, const bf16* keys, const bf16* values, float* scores, bf16* weights,
             float* sums) const {
    const long batch = one / heads, head = one % heads;
    const float scale = 1.44269504f / std::sqrt((float)d);
    float most[ROWS], total[ROWS];
    std::fill(most, most + rows, -1e30f);
    std::fill(total, total + rows, 0.0f);
    std::fill(sums, sums + rows * wide, 0.0f);
    for (long from = 0; from < m; from += KEYS) {
      const long count = std::min(KEYS, m - from);
      for (long c = 0; c < count; c += WIDE)
        products<4, false>(q.at(batch, first, head), q.stride[1], keys + (from + c) * d, WIDE, scores + c, KEYS, rows, d);
      for (long r = 0; r < rows; r++) soften(scores + r * KEYS, weights + r * KEYS, count, scale, most[r], total[r], sums + r * wide);
      const bf16* there = values + from * wide;
      long c = 0;
      for (; c + 64 <= wide; c += 64) products<4, true>(weights, KEYS, there + 2 * c, wide, sums + c, wide, rows, count);
      const long left = (wide - c) / 16;
      if (left == 3) products<3, true>(weights, KEYS, there + 2 * c, wide, sums + c, wide, rows, count);
      if (left == 2) products<2, true>(weights, KEYS, there + 2 * c, wide, sums + c, wide, rows, count);
      if (left == 1) products<1, true>(weights, KEYS, there + 2 * c, wide, sums + c, wide, rows, count);
    }
    for (long r = 0; r < rows; r++) {
      bf16* to = y + ((batch * n + first + r) * heads + head) * d;
      const __m512 share = _mm512_set1_ps(1 / total[r]);
      for (long c = 0; c < d; c += 16) {
        const __mmask16 kept = d - c >= 16 ? 0xffff : (1 << (d - c)) - 1;
        const __m512 found = _mm512_mul_ps(_mm512_loadu_ps(sums + r * wide + c), share);
        _mm256_mask_storeu_epi16(to + c, kept, (__m256i)_mm512_cvtneps_pbh(found));
      }
    }
  }

  // One row of scores as weights; what was summed before is made smaller where a larger score is found.
  void soften(const float* scores, bf16* weights, long count, float scale, float& most, float& total, float* sums) const {
    __m512 high = _mm512_set1_ps(most);
    for (long c = 0; c < count; c += 16) high = _mm512_max_ps(high, _mm512_loadu_ps(scores + c));
    const float top = _mm512_reduce_max_ps(high);
    const __m512 factor = _mm512_set1_ps(scale), shift = _mm512_set1_ps(top * scale);
    __m512 sum = _mm512_setzero_ps();
    for (long c = 0; c < count; c += 16) {
      const __m512 weight = power(_mm512_fmsub_ps(_mm512_loadu_ps(scores + c), factor, shift));
      sum = _mm512_add_ps(sum, weight);
      _mm256_storeu_si256((__m256i*)(weights + c), (__m256i)_mm512_cvtneps_pbh(weight));
    }
    if (top > most) {
      const __m512 smaller = power(_mm512_set1_ps((most - top) * scale));
      total *= _mm512_cvtss_f32(smaller);
      for (long c = 0; c < wide; c += 16) _mm512_storeu_ps(sums + c, _mm512_mul_ps(_mm512_loadu_ps(sums + c), smaller));
      most = top;
    }
    total += _mm512_reduce_add_ps(sum);
  }

  void run(int threads) const {
    const long units = b * heads, blocks = (n + ROWS - 1) / ROWS;
    const Scratch<bf16> keys(units * m * d), values(units * m * wide);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for
      for (long one = 0; one < units; one++) pack(one, keys.data + one * m * d, values.data + one * m * wide);
      const Scratch<float> scores(ROWS * KEYS), sums(ROWS * wide);
      const Scratch<bf16> weights(ROWS * KEYS);
#pragma omp for schedule(dynamic, 8)
      for (long job = 0; job < units * blocks; job++) {
        const long one = job / blocks, first = job % blocks * ROWS;
        block(one, first, std::min(ROWS, n - first), keys.data + one * m * d, values.data + one * m * wide, scores.data,
              weights.data, sums.data);
      }
    }
  }
};

}  // namespace

extern "C" {

// size: b, queries, keys (a multiple of 64), heads, d (even); strides: of q, k and v, three each.
void attention(const void* q, const void* k, const void* v, void* y, const long* s, const long* strides, int threads) {
  const long wide = (s[4] + 15) / 16 * 16;
  Attention{{(const bf16*)q, strides}, {(const bf16*)k, strides + 3}, {(const bf16*)v, strides + 6}, (bf16*)y,
            s[0], s[1], s[2], s[3], s[4], wide}.run(threads);
}

}
