/* What translated kernels see of the machine. */
#ifndef KEEPGATE_PTX_THREAD_H
#define KEEPGATE_PTX_THREAD_H

#include "machine.h"
#include <math.h>
#include <string.h>

enum { SHARED, GLOBAL };
/* Why `run` came back. WARP: at an instruction of all lanes, `operation`. AGAIN: what is polled may change. */
enum { ENDED, BLOCK, WARP, AGAIN };
enum { SYNC, MMA_BF16, MMA_INT8, SHUFFLE_XOR, SHUFFLE_UP };

typedef struct Copies Copies;
typedef struct Block Block;

struct Thread {
    Block *block;
    const unsigned char *parameters;
    Extent at, blocks, threads, block_at;
    uint32_t number, dynamic_shared;
    uint32_t resume, line; /* where `run` goes on; line of the PTX, for errors */
    int state, operation;
    /* Of mma: a 4, b 2, c 4; the result takes c's place. Of a shuffle: what is given, the distance; what is
       taken, and whether there is such a lane. */
    uint32_t fragments[10];
    Copies *copies;
};

uint64_t machine_load(Thread *thread, int space, uint64_t address, uint32_t bytes);
void machine_store(Thread *thread, int space, uint64_t address, uint32_t bytes, uint64_t value);
void machine_add32(Thread *thread, uint64_t address, uint32_t value);
uint32_t machine_poll(Thread *thread, uint64_t address);
void machine_copy(Thread *thread, uint64_t to, uint64_t from, uint32_t bytes, uint32_t of_source);
void machine_commit(Thread *thread);
void machine_wait(Thread *thread, uint32_t groups);
_Noreturn void machine_fault(Thread *thread, const char *format, ...);

static inline float to_float(uint32_t bits) { float value; memcpy(&value, &bits, 4); return value; }
static inline double to_double(uint64_t bits) { double value; memcpy(&value, &bits, 8); return value; }
static inline uint32_t of_float(float value) { uint32_t bits; memcpy(&bits, &value, 4); return bits; }
static inline uint64_t of_double(double value) { uint64_t bits; memcpy(&bits, &value, 8); return bits; }

static inline int64_t divided(Thread *thread, int64_t a, int64_t b) {
    if (b == 0 || (b == -1 && a == INT64_MIN)) machine_fault(thread, "division of %lld by %lld", (long long)a, (long long)b);
    return a / b;
}
static inline uint64_t divided_unsigned(Thread *thread, uint64_t a, uint64_t b) {
    if (b == 0) machine_fault(thread, "division by 0");
    return a / b;
}
/* The low bits of `value`, so many, in place of those of `base` from bit `at` on; beyond `width` there are none. */
static inline uint64_t inserted(uint64_t value, uint64_t base, uint32_t at, uint32_t length, uint32_t width) {
    at &= 255, length &= 255;
    if (at >= width || !length) return base;
    const uint64_t mask = (length < 64 ? (1ull << length) - 1 : UINT64_MAX) << at;
    return (base & ~mask) | (value << at & mask);
}
/* Of 20 bits, as the instruction promises: the low word is zero. */
static inline double coarse_reciprocal(double x) { return to_double(of_double(1.0 / x) & 0xFFFFFFFF00000000ull); }

#endif
