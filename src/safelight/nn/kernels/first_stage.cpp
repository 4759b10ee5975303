// Kernels of convolutional decoders for x86 with AVX-512 and its bf16 products. Tensors are channels-last (b, h, w, c),
// float or bfloat16 (as uint16_t); sums are float. Widths are multiples of 16 going in and of 64 coming out.
//
// A 3x3 convolution by Winograd's minimal filtering F(2x2, 3x3) (Lavin & Gray, arXiv 1509.09308): a tile of 4x4
// numbers becomes 16 numbers, each multiplied once, for 2x2 results that cost 36 products otherwise. After doubling by
// repetition a tile holds 3x3 different numbers, one in each direction of the transform is zero, and 9 products do.
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

using bf16 = uint16_t;

namespace {

constexpr long TILES = 96;  // a block: what one thread transforms, multiplies and transforms back
constexpr long WIDE = 64;   // columns of a product
constexpr long TALL = 6;    // rows of a product: 24 sums, 4 columns and 1 row fill the 32 registers
constexpr long GAP = 32;    // between planes, so that they do not fall on the same lines of the cache

inline __m512 load(const float* p) { return _mm512_loadu_ps(p); }
inline __m512 load(const bf16* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
inline void store(float* p, __m512 v) { _mm512_storeu_ps(p, v); }
inline void store(bf16* p, __m512 v) { _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(v)); }

template <class T>
struct Scratch {
  T* data;
  explicit Scratch(long count) : data((T*)std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64)) {}
  ~Scratch() { std::free(data); }
  Scratch(const Scratch&) = delete;
};

// c (R, 64) = a (R, k) times b: (k, 64) in float, (k / 2, 64, 2) in bf16.
template <int R>
inline void product(const float* a, long lda, const float* b, float* c, long k) {
  __m512 sum[R][4];
  for (auto& row : sum)
    for (auto& one : row) one = _mm512_setzero_ps();
  for (long i = 0; i < k; i++) {
    __m512 column[4];
    for (int j = 0; j < 4; j++) column[j] = _mm512_loadu_ps(b + i * WIDE + 16 * j);
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
      const __m512 one = _mm512_set1_ps(a[r * lda + i]);
      for (int j = 0; j < 4; j++) sum[r][j] = _mm512_fmadd_ps(one, column[j], sum[r][j]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int j = 0; j < 4; j++) _mm512_storeu_ps(c + r * WIDE + 16 * j, sum[r][j]);
}

template <int R>
inline void product(const bf16* a, long lda, const bf16* b, float* c, long k) {
  __m512 sum[R][4];
  for (auto& row : sum)
    for (auto& one : row) one = _mm512_setzero_ps();
  for (long i = 0; i < k; i += 2) {
    __m512bh column[4];
    for (int j = 0; j < 4; j++) column[j] = (__m512bh)_mm512_loadu_si512(b + i * WIDE + 32 * j);
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
      int pair;
      std::memcpy(&pair, a + r * lda + i, 4);
      const __m512bh one = (__m512bh)_mm512_set1_epi32(pair);
      for (int j = 0; j < 4; j++) sum[r][j] = _mm512_dpbf16_ps(sum[r][j], one, column[j]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int j = 0; j < 4; j++) _mm512_storeu_ps(c + r * WIDE + 16 * j, sum[r][j]);
}

template <class T>
void products(const T* a, const T* b, float* c, long rows, long k) {
  long r = 0;
  for (; r + TALL <= rows; r += TALL) product<TALL>(a + r * k, k, b, c + r * WIDE, k);
  for (; r < rows; r++) product<1>(a + r * k, k, b, c + r * WIDE, k);
}

// The transforms along one direction, on tiles of `D` numbers going in, `P` products and 2 results.
template <bool TWICE>
struct Tile;

template <>
struct Tile<false> {
  static constexpr int D = 4, P = 4;
  static void in(const __m512* d, long s, __m512* v, long t) {
    v[0] = d[0] - d[2 * s], v[t] = d[s] + d[2 * s], v[2 * t] = d[2 * s] - d[s], v[3 * t] = d[s] - d[3 * s];
  }
  static void out(const __m512* m, long s, __m512* y, long t) {
    y[0] = m[0] + m[s] + m[2 * s], y[t] = m[s] - m[2 * s] - m[3 * s];
  }
};

template <>
struct Tile<true> {
  static constexpr int D = 3, P = 3;
  static void in(const __m512* d, long s, __m512* v, long t) { v[0] = d[0] - d[s], v[t] = d[s], v[2 * t] = d[s] - d[2 * s]; }
  static void out(const __m512* m, long s, __m512* y, long t) { y[0] = m[0] + m[s], y[t] = m[s] - m[2 * s]; }
};

struct Sizes {
  long batch, high, wide, in, out;  // of what goes in
};

template <class T, bool TWICE>
struct Convolution {
  static constexpr int D = Tile<TWICE>::D, P = Tile<TWICE>::P, PLANES = P * P, STEP = TWICE ? 1 : 2;
  Sizes size;
  const T* x;
  const T* weights;  // (out / 64, planes, in, 64), pairs of `in` beside each other in bf16
  const float* bias;
  const T* add;  // null, or of the shape of y; may be y
  T* y;
  const T* zeros;

  long down() const { return (size.high + STEP - 1) / STEP; }
  long across() const { return (size.wide + STEP - 1) / STEP; }
  long tiles() const { return size.batch * down() * across(); }
  long plane() const { return TILES * size.in + GAP; }

  void transform(long tile, T* v) const {
    const long n = tile / (down() * across()), ty = tile / across() % down(), tx = tile % across();
    const T* from[D][D];
    for (int i = 0; i < D; i++)
      for (int j = 0; j < D; j++) {
        const long row = STEP * ty - 1 + i, column = STEP * tx - 1 + j;
        const bool inside = row >= 0 && row < size.high && column >= 0 && column < size.wide;
        from[i][j] = inside ? x + ((n * size.high + row) * size.wide + column) * size.in : zeros;
      }
    for (long c = 0; c < size.in; c += 16) {
      __m512 d[D * D], half[P * D], whole[P * P];
      for (int i = 0; i < D; i++)
        for (int j = 0; j < D; j++) d[i * D + j] = load(from[i][j] + c);
      for (int j = 0; j < D; j++) Tile<TWICE>::in(d + j, D, half + j, D);
      for (int i = 0; i < P; i++) Tile<TWICE>::in(half + i * D, 1, whole + i * P, 1);
      for (int p = 0; p < PLANES; p++) store(v + p * plane() + c, whole[p]);
    }
  }

  void back(long tile, const float* m, long first) const {
    const long n = tile / (down() * across()), ty = tile / across() % down(), tx = tile % across();
    const long high = TWICE ? 2 * size.high : size.high, wide = TWICE ? 2 * size.wide : size.wide;
    for (long c = 0; c < WIDE; c += 16) {
      __m512 d[PLANES], half[2 * P], whole[4];
      for (int p = 0; p < PLANES; p++) d[p] = load(m + p * TILES * WIDE + c);
      for (int j = 0; j < P; j++) Tile<TWICE>::out(d + j, P, half + j, P);
      for (int i = 0; i < 2; i++) Tile<TWICE>::out(half + i * P, 1, whole + i * 2, 1);
      for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
          if (2 * ty + i >= high || 2 * tx + j >= wide) continue;
          const long place = ((n * high + 2 * ty + i) * wide + 2 * tx + j) * size.out + first + c;
          __m512 value = whole[i * 2 + j] + load(bias + first + c);
          if (add) value += load(add + place);
          store(y + place, value);
        }
    }
  }

  void run(int threads) const {
    const long blocks = (tiles() + TILES - 1) / TILES;
#pragma omp parallel num_threads(threads)
    {
      Scratch<T> v(PLANES * plane());
      Scratch<float> m(PLANES * TILES * WIDE);
#pragma omp for schedule(dynamic)
      for (long block = 0; block < blocks; block++) {
        const long begin = block * TILES, count = std::min(TILES, tiles() - begin);
        for (long i = 0; i < count; i++) transform(begin + i, v.data + i * size.in);
        for (long first = 0; first < size.out; first += WIDE) {
          const T* mine = weights + first * PLANES * size.in;
          for (int p = 0; p < PLANES; p++)
            products(v.data + p * plane(), mine + p * size.in * WIDE, m.data + p * TILES * WIDE, count, size.in);
          for (long i = 0; i < count; i++) back(begin + i, m.data + i * WIDE, first);
        }
      }
    }
  }
};

inline __m512 exponential(__m512 x) {  // relative error 2e-7; Cephes' polynomial on [-ln 2 / 2, ln 2 / 2]
  x = _mm512_max_ps(_mm512_set1_ps(-87), _mm512_min_ps(_mm512_set1_ps(88), x));
  const __m512 n = _mm512_roundscale_ps(x * _mm512_set1_ps(1.44269504f), 8);
  const __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x));
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  for (float next : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f, 1.0f, 1.0f})
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(next));
  return _mm512_scalef_ps(p, n);
}

// Sum and sum of squares of each group of x (b, places, c): (b, groups, 2).
template <class T>
void sums(const T* x, double* out, long batch, long places, long width, long groups, int threads) {
  constexpr long CHUNK = 256;
  const long chunks = (places + CHUNK - 1) / CHUNK, each = width / groups;
  std::vector<float> parts(batch * chunks * 2 * width);
#pragma omp parallel for num_threads(threads)
  for (long chunk = 0; chunk < batch * chunks; chunk++) {
    const long n = chunk / chunks, begin = chunk % chunks * CHUNK, end = std::min(places, begin + CHUNK);
    float* sum = parts.data() + chunk * 2 * width;
    for (long i = begin; i < end; i++)
      for (long c = 0; c < width; c += 16) {
        const __m512 value = load(x + (n * places + i) * width + c);
        store(sum + c, load(sum + c) + value);
        store(sum + width + c, _mm512_fmadd_ps(value, value, load(sum + width + c)));
      }
  }
  for (long n = 0; n < batch; n++)
    for (long g = 0; g < groups; g++) {
      double sum = 0, squares = 0;
      for (long chunk = n * chunks; chunk < (n + 1) * chunks; chunk++)
        for (long c = g * each; c < (g + 1) * each; c++) {
          sum += parts[chunk * 2 * width + c];
          squares += parts[chunk * 2 * width + width + c];
        }
      out[(n * groups + g) * 2] = sum, out[(n * groups + g) * 2 + 1] = squares;
    }
}

// x * scale + shift, each (b, c), and SiLU; y may be x.
template <class T>
void scaled(const T* x, T* y, const float* scale, const float* shift, long batch, long places, long width, bool silu,
            int threads) {
#pragma omp parallel for num_threads(threads)
  for (long i = 0; i < batch * places; i++) {
    const long n = i / places * width;
    for (long c = 0; c < width; c += 16) {
      __m512 value = _mm512_fmadd_ps(load(x + i * width + c), load(scale + n + c), load(shift + n + c));
      if (silu) value = value / (_mm512_set1_ps(1) + exponential(-value));
      store(y + i * width + c, value);
    }
  }
}

template <class T>
void convolve(const void* x, const void* weights, const float* bias, const void* add, void* y, const long* s, bool twice,
              int threads) {
  const Sizes size{s[0], s[1], s[2], s[3], s[4]};
  const std::vector<T> zeros(size.in);
  if (twice)
    Convolution<T, true>{size, (const T*)x, (const T*)weights, bias, (const T*)add, (T*)y, zeros.data()}.run(threads);
  else
    Convolution<T, false>{size, (const T*)x, (const T*)weights, bias, (const T*)add, (T*)y, zeros.data()}.run(threads);
}

}  // namespace

extern "C" {

// size: b, h, w, c in, c out
void convolution3(const void* x, const void* weights, const float* bias, const void* add, void* y, const long* size,
                  int twice, int half, int threads) {
  (half ? convolve<bf16> : convolve<float>)(x, weights, bias, add, y, size, twice, threads);
}

// size: b, places, c, groups
void group_sums(const void* x, double* out, const long* s, int half, int threads) {
  if (half)
    sums((const bf16*)x, out, s[0], s[1], s[2], s[3], threads);
  else
    sums((const float*)x, out, s[0], s[1], s[2], s[3], threads);
}

// size: b, places, c
void scale_shift(const void* x, void* y, const float* scale, const float* shift, const long* s, int silu, int half,
                 int threads) {
  if (half)
    scaled((const bf16*)x, (bf16*)y, scale, shift, s[0], s[1], s[2], silu, threads);
  else
    scaled((const float*)x, (float*)y, scale, shift, s[0], s[1], s[2], silu, threads);
}

}
