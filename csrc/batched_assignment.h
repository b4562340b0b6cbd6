#pragma once

#include <cstdint>

namespace stoa {

// cost (B, R, C) float; counts (B,) int64, absent means all R rows or all C columns take part.
// match (B, R) int64 is the column of each row or -1; infeasible (B,) bool.
inline constexpr const char* kBatchedAssignmentSchema =
    "batched_assignment(Tensor cost, Tensor? num_rows=None, Tensor? num_cols=None)"
    " -> (Tensor match, Tensor infeasible)";

// Largest R and C, the same on every device: it bounds the scratch memory of one problem.
inline constexpr int64_t kMaxAssignmentSize = 1024;

}  // namespace stoa
