// The recurrence of one decay per head, session by session, forward and backward: what a plain loop in C++ can do.
// u, y (b, l, head, p); log_a (b, l, head); B, C (b, l, n); float32; one thread. The state starts at zero.
#include <cmath>
#include <cstring>
#include <vector>

constexpr int P = 16;      // channels of a head: one AVX-512 register
constexpr int SPAN = 16;   // sessions whose states the backward pass recomputes at once

static void advance(float* h, const float* u, const float* log_a, const float* B, int heads, int n) {
    for (int k = 0; k < heads; ++k) {
        const float a = std::exp(log_a[k]);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < P; ++j) h[(k * n + i) * P + j] = a * h[(k * n + i) * P + j] + B[i] * u[k * P + j];
    }
}

extern "C" void scan_forward(const float* u, const float* log_a, const float* B, const float* C, float* y,
                             float* starts, int b, int l, int heads, int n) {
    const int size = heads * n * P, spans = (l + SPAN - 1) / SPAN;
    std::vector<float> h(size);
    for (int s = 0; s < b; ++s) {
        std::fill(h.begin(), h.end(), 0.f);
        for (int t = 0; t < l; ++t) {
            const long at = (long)s * l + t;
            if (t % SPAN == 0) std::memcpy(starts + ((long)s * spans + t / SPAN) * size, h.data(), size * sizeof(float));
            advance(h.data(), u + at * heads * P, log_a + at * heads, B + at * n, heads, n);
            for (int k = 0; k < heads; ++k) {
                float out[P] = {0};
                for (int i = 0; i < n; ++i)
                    for (int j = 0; j < P; ++j) out[j] += C[at * n + i] * h[(k * n + i) * P + j];
                std::memcpy(y + (at * heads + k) * P, out, sizeof(out));
            }
        }
    }
}

extern "C" void scan_backward(const float* u, const float* log_a, const float* B, const float* C, const float* starts,
                              const float* gy, float* gu, float* ga, float* gB, float* gC, int b, int l, int heads, int n) {
    const int size = heads * n * P, spans = (l + SPAN - 1) / SPAN;
    std::vector<float> g(size), states((SPAN + 1) * size), across(2 * n * P);
    for (int s = 0; s < b; ++s) {
        std::fill(g.begin(), g.end(), 0.f);
        for (int span = spans - 1; span >= 0; --span) {
            const int first = span * SPAN, last = std::min(l, first + SPAN);
            std::memcpy(states.data(), starts + ((long)s * spans + span) * size, size * sizeof(float));
            for (int t = first; t < last; ++t) {
                const long at = (long)s * l + t;
                float* next = states.data() + (t - first + 1) * size;
                std::memcpy(next, next - size, size * sizeof(float));
                advance(next, u + at * heads * P, log_a + at * heads, B + at * n, heads, n);
            }
            for (int t = last - 1; t >= first; --t) {
                const long at = (long)s * l + t;
                const float *h = states.data() + (t - first + 1) * size, *before = h - size;
                std::fill(across.begin(), across.end(), 0.f);
                for (int k = 0; k < heads; ++k) {
                    const float a = std::exp(log_a[at * heads + k]);
                    const float *in = u + (at * heads + k) * P, *out = gy + (at * heads + k) * P;
                    float du[P] = {0}, da[P] = {0};
                    for (int i = 0; i < n; ++i) {
                        float* gi = g.data() + (k * n + i) * P;
                        const float *hi = h + (k * n + i) * P, *bi = before + (k * n + i) * P;
                        const float Ci = C[at * n + i], Bi = B[at * n + i];
                        for (int j = 0; j < P; ++j) {
                            across[i * P + j] += hi[j] * out[j];
                            gi[j] += Ci * out[j];
                            across[(n + i) * P + j] += gi[j] * in[j];
                            du[j] += Bi * gi[j];
                            da[j] += gi[j] * bi[j];
                            gi[j] *= a;
                        }
                    }
                    float sum = 0;
                    for (int j = 0; j < P; ++j) sum += da[j];
                    ga[at * heads + k] = a * sum;
                    std::memcpy(gu + (at * heads + k) * P, du, sizeof(du));
                }
                for (int i = 0; i < n; ++i) {
                    float c = 0, w = 0;
                    for (int j = 0; j < P; ++j) { c += across[i * P + j]; w += across[(n + i) * P + j]; }
                    gC[at * n + i] = c;
                    gB[at * n + i] = w;
                }
            }
        }
    }
}
