// What Hopper's multiprocessors have beside CUDA C++: barriers in shared memory that count bytes, a copy engine for
// tiles of matrices, and products of matrices that four warps start together. Each function is one instruction or two;
// shared memory is named by its 32-bit address. See NVIDIA's PTX ISA 8.0, chapters 9.7.9 (tensor copies, mbarrier)
// and 9.7.14 (wgmma).
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

namespace nnk::device::hopper {

__device__ inline uint32_t address_of(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// The number of this program among those of its cluster.
__device__ inline uint32_t rank_in_cluster() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// All threads of all programs of the cluster wait for each other.
__device__ inline void wait_for_cluster() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

// One of 16 barriers between `threads` threads: some arrive and go on, some wait until all have arrived.
__device__ inline void arrive_at_named(int number, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
__device__ inline void wait_at_named(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// A barrier's phase ends when so many threads have arrived and as many bytes have come as they have announced.
__device__ inline void make_barrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ inline void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void arrive_and_announce(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// At the same barrier of another program. A wider scope than the default would wait for all of this thread's writes.
__device__ inline void arrive_at_other(uint32_t barrier, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}
// Until the phase of this parity has ended: 0 is the first one's, and 1 has ended before it.
__device__ inline void wait_for(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred ended;\nagain:\nmbarrier.try_wait.parity.shared.b64 ended, [%0], %1;\n@!ended bra again;\n}" ::"r"(
          barrier),
      "r"(parity)
      : "memory");
}

// A tile from `row` and `col` on of the matrix that `map` describes, into shared memory; its bytes count at `barrier`.
// Beyond the matrix there are zeros, which count as well.
__device__ inline void fetch(uint32_t to, const CUtensorMap* map, int row, int col, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
          "r"(to),
      "l"(map), "r"(col), "r"(row), "r"(barrier)
      : "memory");
}
// The same into the same place of the programs of the cluster whose bits are set.
__device__ inline void fetch_for_all(uint32_t to, const CUtensorMap* map, int row, int col, uint32_t barrier,
                                     uint16_t programs) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
      " [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(map), "r"(col), "r"(row), "r"(barrier), "h"(programs)
      : "memory");
}

// Makes what this thread's warp wrote to shared memory visible to the copy engine.
__device__ inline void show_to_engine() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// From shared memory to the matrix; what lies beyond it is not written.
__device__ inline void send(const CUtensorMap* map, int row, int col, uint32_t from) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(col),
               "r"(row), "r"(from)
               : "memory");
}
__device__ inline void close_sent() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until what was sent has been read from shared memory, or has arrived.
__device__ inline void wait_until_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ inline void wait_until_sent() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// Registers for each thread of the four warps that call it, from or to the program's own.
template <int kRegisters>
__device__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// The lower half of the descriptor of a tile of 64 numbers of 16 bits a row, as `fetch` has laid it out: rows of 128
// bytes, 8 of them in an atom of 1,024, within which the place of 16 bytes is exclusive-ored with the row. Numbers that
// are multiplied with each other stand in a row, or, if `kDown`, below each other, 64 of them, with the next columns
// behind.
template <bool kDown>
__device__ uint32_t descriptor(uint32_t tile) {
  constexpr uint32_t kOwn = (1 << 18) - 1;  // the address within the program, whose number stands above
  return (tile & kOwn) >> 4 | (kDown ? 64 * 128 >> 4 : 1) << 16;
}
constexpr uint32_t kDescribedTile = 1 << 30 | 1024 >> 4;  // the upper half
template <bool kDown>
constexpr uint32_t kNext16 = (kDown ? 16 * 128 : 32) >> 4;  // to the next 16 such numbers
constexpr uint32_t kNext64Rows = 64 * 128 >> 4;

#define NNK_8(sums, i)                                                                                          \
  "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3]), "+f"(sums[i + 4]), "+f"(sums[i + 5]), \
      "+f"(sums[i + 6]), "+f"(sums[i + 7])
#define NNK_WGMMA(type)                                                                                             \
  asm volatile(                                                                                                     \
      "{\n.reg .pred adds;\n.reg .b64 a, b;\nsetp.ne.b32 adds, %66, 0;\nmov.b64 a, {%64, %67};\nmov.b64 b, {%65, "  \
      "%67};\n"                                                                                                     \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                                                  \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, " \
      "%23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, "   \
      "%44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "       \
      "a, b, adds, 1, 1, 0, %68;\n}"                                                                                \
      : NNK_8(sums, 0), NNK_8(sums, 8), NNK_8(sums, 16), NNK_8(sums, 24), NNK_8(sums, 32), NNK_8(sums, 40),         \
        NNK_8(sums, 48), NNK_8(sums, 56)                                                                            \
      : "r"(a), "r"(b), "r"(adds), "r"(kDescribedTile), "n"(int(kDown)))

// Starts sums (64 x 128) = or += A (64 x 16) B^T (128 x 16), of two descriptors' tiles. Of a row's numbers a thread
// has, with lane = thread % 32, the two of columns 8 j + lane % 4 * 2 of row 16 (thread / 32 % 4) + lane / 4 in sums[4
// j] and sums[4 j + 1], and those of the eighth row below in the next two.
template <class T, bool kDown>
__device__ void multiply(float (&sums)[64], uint32_t a, uint32_t b, int adds) {
  if constexpr (__is_same(T, __nv_bfloat16)) {
    NNK_WGMMA("bf16");
  } else {
    NNK_WGMMA("f16");
  }
}
#undef NNK_WGMMA
#undef NNK_8

// Before the first product that sees registers or shared memory as they are now.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void close_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most so many groups of products are under way.
template <int kGroups>
__device__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
}
// Sums that products are changing: the compiler may not move what reads or writes them across this.
__device__ inline void pin(float (&sums)[64]) {
#pragma unroll
  for (int i = 0; i < 64; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

// Four matrices of 8 x 8 numbers of 16 bits: lane 8 m + r tells where row r of matrix m goes, and each thread has of
// every matrix the numbers that it has of such a part of `multiply`'s sums.
__device__ inline void store_matrices(uint32_t row, const uint32_t (&four)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(four[0]),
               "r"(four[1]), "r"(four[2]), "r"(four[3])
               : "memory");
}

// The other way.
__device__ inline void load_matrices(uint32_t (&four)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(four[0]), "=r"(four[1]), "=r"(four[2]), "=r"(four[3])
               : "r"(row)
               : "memory");
}

}  // namespace nnk::device::hopper
