// Mean distances of cells (queries) to the cells of every label (references), fused: a query keeps
// the sum to its own label and the least mean over the other labels; no distance is ever stored.
//
// One block takes BLOCK_ROWS queries and walks over segments of references. A segment lies within one
// label and has at most as many references as the caller cut, always at the same places: the order of
// every sum is fixed, so figures are the same bit for bit however references are split into shards
// and labels over blocks. There are no atomics. Sums of at most 32 float32 distances, added as trees of
// four or eight, go on in float64.
//
// Compiled for one number of dimensions, D, with DEPTH and BLOCK_ROWS as `plan.py` chooses them. Wants
// IEEE arithmetic except for the square root, which may err by one unit in the last place
// (--prec-sqrt=false, --ftz=true); no fast-math.

#if !defined(D) || !defined(DEPTH) || !defined(BLOCK_ROWS)
#error "D, DEPTH and BLOCK_ROWS must be defined"
#endif

// What both ways of summing read and write.
struct Walk {
    const int *codes;
    const long long *starts;
    const double *centres;
    const long long *segments;
    const int *groups;
    const unsigned char *keep;
    double *own_sum;
    double *nearest;
    double *carry;
    long long rows;
    long long shard_start;
    int n_labels;
};

// What a query has found so far.
struct Found {
    double sum;
    double nearest;
    int own;
};

__device__ __forceinline__ long long smaller(long long a, long long b) { return a < b ? a : b; }

__device__ __forceinline__ Found start_query(const Walk &walk, long long row) {
    return {walk.carry[row], walk.nearest[blockIdx.y * walk.rows + row], walk.codes[row]};
}

__device__ __forceinline__ void write_query(const Walk &walk, const Found &found, long long row) {
    walk.nearest[blockIdx.y * walk.rows + row] = found.nearest;
    if (gridDim.y == 1) walk.carry[row] = found.sum;
}

// Adds the sum over a segment; closes the label if the segment is its last.
__device__ __forceinline__ void add_segment(const Walk &walk, Found &found, long long row, int label,
                                            long long begin, long long size, double sum) {
    const long long label_start = walk.starts[label], label_stop = walk.starts[label + 1];
    begin += walk.shard_start;
    found.sum = begin == label_start ? sum : found.sum + sum;
    if (begin + size < label_stop) return;
    if (label == found.own) {
        walk.own_sum[row] = found.sum;
    } else {
        const double mean = found.sum / (double)(label_stop - label_start);
        if (mean < found.nearest) found.nearest = mean;
    }
}

// A coordinate of a query as an offset from the centre of `label`. Its own label's is exact, so that
// a cell is at no distance from itself.
__device__ __forceinline__ float seen_from(const Walk &walk, float offset, int own, int label, int k) {
    if (own == label) return offset;
    const double point = (double)offset + walk.centres[(long long)own * D + k];
    return (float)(point - walk.centres[(long long)label * D + k]);
}

#if DEPTH == 0

// Few dimensions: each thread holds queries in registers, all threads read the same reference.
constexpr int THREADS = 128;
constexpr int BLOCKS_AT_ONCE = 5;
constexpr int QUERIES = BLOCK_ROWS / THREADS;
constexpr int TILE = 512;
constexpr int RUN = 32;
static_assert(QUERIES * THREADS == BLOCK_ROWS, "threads share the queries evenly");
static_assert(TILE % RUN == 0 && RUN % 4 == 0, "runs fill tiles and are read four by four");

// The sum of distances to four references, which are 4 * D floats; those from `valid` on count nothing.
__device__ __forceinline__ float sum_of_four(const float (&at)[D], const float4 *four, int valid) {
    float values[4 * D];
#pragma unroll
    for (int k = 0; k < D; ++k) {
        const float4 part = four[k];
        values[4 * k] = part.x;
        values[4 * k + 1] = part.y;
        values[4 * k + 2] = part.z;
        values[4 * k + 3] = part.w;
    }
    float root[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        float square = 0.0f;
#pragma unroll
        for (int k = 0; k < D; ++k) {
            const float gap = at[k] - values[j * D + k];
            square = k == 0 ? gap * gap : fmaf(gap, gap, square);
        }
        root[j] = j < valid ? sqrtf(square) : 0.0f;
    }
    return (root[0] + root[1]) + (root[2] + root[3]);
}

// queries (rows, D), references (n_references, D).
__device__ __forceinline__ void walk_segments(const Walk &walk, const float *__restrict__ queries,
                                              const float *__restrict__ references, long long, float *) {
    __shared__ float4 tile[TILE * D / 4];
    float *const tile_values = reinterpret_cast<float *>(tile);
    const long long first = (long long)blockIdx.x * BLOCK_ROWS + threadIdx.x;
    const unsigned char *const keep = walk.keep + (long long)blockIdx.x * walk.n_labels;
    Found found[QUERIES];
    float at[QUERIES][D];
    // Rows past the end repeat the last one and are not written.
#pragma unroll
    for (int i = 0; i < QUERIES; ++i)
        found[i] = start_query(walk, smaller(first + i * THREADS, walk.rows - 1));

    for (int s = walk.groups[blockIdx.y]; s < walk.groups[blockIdx.y + 1]; ++s) {
        const int label = (int)walk.segments[3 * s];
        const long long begin = walk.segments[3 * s + 1], size = walk.segments[3 * s + 2];
        if (!keep[label]) continue;
        double total[QUERIES];
#pragma unroll
        for (int i = 0; i < QUERIES; ++i) {
            const long long row = smaller(first + i * THREADS, walk.rows - 1);
            total[i] = 0.0;
#pragma unroll
            for (int k = 0; k < D; ++k)
                at[i][k] = seen_from(walk, queries[row * D + k], found[i].own, label, k);
        }
        for (long long from = 0; from < size; from += TILE) {
            const int count = (int)smaller(TILE, size - from);
            __syncthreads();
            for (int e = threadIdx.x; e < count * D; e += THREADS)
                tile_values[e] = references[(begin + from) * D + e];
            __syncthreads();
            for (int start = 0; start < count; start += RUN) {
                float partial[QUERIES] = {};
                if (start + RUN <= count) {
#pragma unroll
                    for (int j = start; j < start + RUN; j += 4)
#pragma unroll
                        for (int i = 0; i < QUERIES; ++i)
                            partial[i] += sum_of_four(at[i], tile + j / 4 * D, 4);
                } else {
                    for (int j = start; j < count; j += 4)
#pragma unroll
                        for (int i = 0; i < QUERIES; ++i)
                            partial[i] += sum_of_four(at[i], tile + j / 4 * D, count - j);
                }
#pragma unroll
                for (int i = 0; i < QUERIES; ++i) total[i] += (double)partial[i];
            }
        }
#pragma unroll
        for (int i = 0; i < QUERIES; ++i) {
            const long long row = smaller(first + i * THREADS, walk.rows - 1);
            add_segment(walk, found[i], row, label, begin, size, total[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < QUERIES; ++i)
        if (first + i * THREADS < walk.rows) write_query(walk, found[i], first + i * THREADS);
}

#else

// Many dimensions: 128 queries against 128 references at a time, as a matrix product is computed.
// Each of 16 x 16 threads holds the squares of 8 x 8 pairs; coordinates come DEPTH dimensions at a
// time through two buffers, the next being fetched while one is used. Differences are summed, not
// products: dearer by half, but no digits cancel.
constexpr int SIDE = 16;
constexpr int THREADS = SIDE * SIDE;
constexpr int BLOCKS_AT_ONCE = 2;
constexpr int TILE = 128;
static_assert(BLOCK_ROWS == TILE, "a tile is square");
constexpr int CHUNKS = (D + DEPTH - 1) / DEPTH;
constexpr int PADDED = CHUNKS * DEPTH;
// Every thread fetches the same column of queries and of references, at every second dimension.
constexpr int LANES = THREADS / TILE;
// Half of a buffer: all of it would not stay in the nearest cache of instructions.
constexpr int UNROLL = DEPTH / 2;
constexpr int FETCHES = DEPTH / LANES;
static_assert(DEPTH % LANES == 0, "threads share the dimensions of a buffer evenly");

struct Buffer {
    float4 queries[DEPTH][BLOCK_ROWS / 4];
    float4 references[DEPTH][TILE / 4];
};

struct Shared {
    Buffer buffers[2];
    // Each thread's own sums for its eight queries; here, not in registers, of which there are too few.
    double sums[8][THREADS];
};

// A thread's eight queries, or references, are two fours half a tile apart: no bank is asked twice.
__device__ __forceinline__ int place_of(int thread, int i) {
    return i < 4 ? 4 * thread + i : TILE / 2 + 4 * thread + i - 4;
}

__device__ __forceinline__ void load_eight(float (&values)[8], const float4 (&line)[TILE / 4], int thread) {
    const float4 low = line[thread], high = line[TILE / 8 + thread];
    values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
    values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
}

// queries (D, rows); references (PADDED, n_references), zero from D on; shifted (gridDim.y, gridDim.x,
// PADDED, BLOCK_ROWS), room for queries as seen from a label.
__device__ __forceinline__ void walk_segments(const Walk &walk, const float *__restrict__ queries,
                                              const float *__restrict__ references,
                                              long long n_references, float *shifted) {
    __shared__ Shared shared;
    const int column = threadIdx.x % SIDE, line = threadIdx.x / SIDE;
    const int lane = threadIdx.x / TILE, place = threadIdx.x % TILE;
    const long long first = (long long)blockIdx.x * BLOCK_ROWS;
    // Rows past the end repeat the last one and are not written.
    const long long row = smaller(first + place, walk.rows - 1);
    const unsigned char *const keep = walk.keep + (long long)blockIdx.x * walk.n_labels;
    shifted += ((long long)blockIdx.y * gridDim.x + blockIdx.x) * PADDED * BLOCK_ROWS;
    // Each query belongs to the thread of the first 128 that has its place.
    Found found = start_query(walk, row);
    int shown = -1;

    for (int s = walk.groups[blockIdx.y]; s < walk.groups[blockIdx.y + 1]; ++s) {
        const int label = (int)walk.segments[3 * s];
        const long long begin = walk.segments[3 * s + 1], size = walk.segments[3 * s + 2];
        if (!keep[label]) continue;
        if (label != shown) {
            // Each thread fetches only what it writes here: no barrier is needed.
            for (int k = lane; k < PADDED; k += LANES) {
                const float offset = k < D ? queries[k * walk.rows + row] : 0.0f;
                shifted[k * BLOCK_ROWS + place] =
                    k < D ? seen_from(walk, offset, found.own, label, k) : 0.0f;
            }
            shown = label;
        }

        float next_query[FETCHES], next_reference[FETCHES];
        const float *query_at, *reference_at;
        // Fetches the next DEPTH dimensions, the first ones of other references if `from` is given.
        const auto fetch = [&](long long from) {
            if (from >= 0) {
                query_at = shifted + lane * BLOCK_ROWS + place;
                reference_at = references + lane * n_references + begin + smaller(from + place, size - 1);
            }
#pragma unroll
            for (int f = 0; f < FETCHES; ++f) {
                next_query[f] = query_at[f * LANES * BLOCK_ROWS];
                next_reference[f] = *reference_at;
                reference_at += LANES * n_references;
            }
            query_at += DEPTH * BLOCK_ROWS;
        };
        const auto store = [&](Buffer &buffer) {
#pragma unroll
            for (int f = 0; f < FETCHES; ++f) {
                reinterpret_cast<float *>(buffer.queries[f * LANES + lane])[place] = next_query[f];
                reinterpret_cast<float *>(buffer.references[f * LANES + lane])[place] = next_reference[f];
            }
        };

#pragma unroll
        for (int i = 0; i < 8; ++i) shared.sums[i][threadIdx.x] = 0.0;
        int turn = 0;
        fetch(0);
        store(shared.buffers[0]);
        __syncthreads();
        for (long long from = 0; from < size; from += TILE) {
            float square[8][8] = {};
#pragma unroll 1
            for (int chunk = 0; chunk < CHUNKS; ++chunk) {
                const bool ends = chunk == CHUNKS - 1;
                const bool goes_on = !ends || from + TILE < size;
                if (goes_on) fetch(ends ? from + TILE : -1);
                const Buffer &buffer = shared.buffers[turn];
#pragma unroll UNROLL
                for (int k = 0; k < DEPTH; ++k) {
                    float at[8], to[8];
                    load_eight(at, buffer.queries[k], line);
                    load_eight(to, buffer.references[k], column);
#pragma unroll
                    for (int i = 0; i < 8; ++i)
#pragma unroll
                        for (int j = 0; j < 8; ++j) {
                            const float gap = at[i] - to[j];
                            square[i][j] = fmaf(gap, gap, square[i][j]);
                        }
                }
                // The other buffer was last read before the barrier that ended the last turn.
                turn ^= 1;
                if (goes_on) store(shared.buffers[turn]);
                __syncthreads();
            }
            const int valid = (int)smaller(TILE, size - from);
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                float root[8];
#pragma unroll
                for (int j = 0; j < 8; ++j)
                    root[j] = place_of(column, j) < valid ? sqrtf(square[i][j]) : 0.0f;
                const float low = (root[0] + root[1]) + (root[2] + root[3]);
                const float high = (root[4] + root[5]) + (root[6] + root[7]);
                shared.sums[i][threadIdx.x] += (double)(low + high);
            }
        }
        __syncthreads();
        if (lane == 0) {
            // The inverse of place_of: whose sums these are.
            const int half = place / (TILE / 2), within = place % (TILE / 2);
            const double *const sums = shared.sums[4 * half + within % 4] + within / 4 * SIDE;
            double sum = 0.0;
            for (int c = 0; c < SIDE; ++c) sum += sums[c];
            add_segment(walk, found, row, label, begin, size, sum);
        }
        __syncthreads();
    }
    if (lane == 0 && first + place < walk.rows) write_query(walk, found, first + place);
}

#endif

// queries      offsets of queries from the centres of their own labels
// references   offsets of the references of this shard from the centres of theirs
// codes        (rows,) label of each query
// starts       (n_labels + 1,) where each label begins among all references
// centres      (n_labels, D)
// segments     (n_segments, 3) label, first reference within the shard, number of references
// groups       (gridDim.y + 1,) first segment of each group of labels; a group has blocks of its own
// keep         (gridDim.x, n_labels) zero where a label matters to no query of a block
// own_sum      (rows,) out: sum of distances to the query's own label
// nearest      (gridDim.y, rows) in and out: least mean distance to another label of the group
// carry        (rows,) in and out: sum of a label that goes on in the next shard, where gridDim.y = 1
// shard_start  place of the shard's first reference among all
// shifted      room for the queries of a block as seen from a label, where DEPTH > 0
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE)
    mean_distances(const float *queries, const float *references, const int *codes,
                   const long long *starts, const double *centres, const long long *segments,
                   const int *groups, const unsigned char *keep, double *own_sum, double *nearest,
                   double *carry, float *shifted, long long rows, long long shard_start,
                   long long n_references, int n_labels) {
    const Walk walk{codes,   starts,  centres, segments, groups,      keep,
                    own_sum, nearest, carry,   rows,     shard_start, n_labels};
    walk_segments(walk, queries, references, n_references, shifted);
}
