// Runs a CUDA kernel on a CPU, one block after another: the threads of a block are coroutines that
// take turns and change at every barrier. Turns go forwards or backwards, so that a result that
// depends on who comes first, as with a missing barrier, differs between the two.
#pragma once

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <functional>
#include <vector>

#define __global__
// Internal to one library: several forms of a kernel are loaded at a time.
#define __device__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
// All shared variables in one place, so that each block finds rubbish there.
#define __shared__ static __attribute__((section("shared_memory")))
extern "C" char __start_shared_memory, __stop_shared_memory;

struct alignas(16) float4 {
    float x, y, z, w;
};

struct Index {
    unsigned x, y;
};
static Index threadIdx, blockIdx, gridDim;

namespace host {

enum class State { running, waiting, ended };

struct Thread {
    ucontext_t context;
    std::vector<char> stack;
    State state;
};

static std::vector<Thread> threads;
static ucontext_t scheduler;
static std::function<void()> body;
static unsigned current;

static void start() {
    body();
    threads[current].state = State::ended;
    swapcontext(&threads[current].context, &scheduler);
}

// Returns false if some threads of a block end while others wait at a barrier.
static bool run_block(unsigned n_threads, bool backwards) {
    memset(&__start_shared_memory, 0xff, &__stop_shared_memory - &__start_shared_memory);
    threads.resize(n_threads);
    for (Thread &thread : threads) {
        thread.stack.resize(64 * 1024);
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.data();
        thread.context.uc_stack.ss_size = thread.stack.size();
        thread.context.uc_link = nullptr;
        makecontext(&thread.context, start, 0);
    }
    for (;;) {
        unsigned n_ended = 0;
        for (unsigned turn = 0; turn < n_threads; ++turn) {
            current = backwards ? n_threads - 1 - turn : turn;
            threadIdx = {current, 0};
            threads[current].state = State::running;
            swapcontext(&scheduler, &threads[current].context);
            n_ended += threads[current].state == State::ended;
        }
        if (n_ended == n_threads) return true;
        if (n_ended > 0) return false;
    }
}

static bool run_grid(Index grid, unsigned n_threads, bool backwards, std::function<void()> kernel) {
    body = std::move(kernel);
    gridDim = grid;
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
            if (!run_block(n_threads, backwards)) return false;
    return true;
}

}  // namespace host

inline void __syncthreads() {
    host::Thread &self = host::threads[host::current];
    self.state = host::State::waiting;
    swapcontext(&self.context, &host::scheduler);
}
