// Schemas of every operator in the stoa namespace. Kernels register themselves, one file for each
// device; fake implementations and autograd formulas are registered from Python (stoa/ops).

#include "registration.h"
#include "batched_assignment.h"
#include "quick_gelu.h"
#include "roi_align_max.h"
#include "trajectory_attention.h"

#include <torch/library.h>

namespace stoa {

TORCH_LIBRARY(stoa, m) {
  for (const char* schema :
       {kBatchedAssignmentSchema,
        kQuickGeluSchema,
        kQuickGeluBackwardSchema,
        kRoiAlignMaxSchema,
        kRoiAlignMaxBackwardSchema,
        kTrajectoryAttentionSchema,
        kTrajectoryAttentionBackwardSchema}) {
    m.def(schema, {at::Tag::pt2_compliant_tag});
  }
}

std::vector<std::string> operator_names() {
  std::vector<std::string> names;
  for (const c10::OperatorName& op : c10::Dispatcher::singleton().getAllOpNames()) {
    if (op.getNamespace() == "stoa") {
      names.push_back(op.name);
    }
  }
  return names;
}

}  // namespace stoa
