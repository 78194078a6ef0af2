#include "cuda_on_host.hpp"

#include KERNEL

extern "C" int launch(unsigned grid_x, unsigned grid_y, int backwards, const float *queries,
                      const float *references, const int *codes, const long long *starts,
                      const double *centres, const long long *segments, const int *groups,
                      const unsigned char *keep, double *own_sum, double *nearest, double *carry,
                      float *shifted, long long rows, long long shard_start, long long n_references,
                      int n_labels) {
    return host::run_grid({grid_x, grid_y}, THREADS, backwards, [&] {
        mean_distances(queries, references, codes, starts, centres, segments, groups, keep, own_sum,
                       nearest, carry, shifted, rows, shard_start, n_references, n_labels);
    });
}
