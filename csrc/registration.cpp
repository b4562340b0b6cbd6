// Schemas and kernels of every operator in the stoa namespace; fake implementations and autograd
// formulas are registered from Python (stoa/ops). All is here since <torch/library.h> takes longer
// to compile than most kernels.

#include "registration.h"
#include "batched_assignment.h"
#include "kernels.h"
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

TORCH_LIBRARY_IMPL(stoa, CPU, m) {
  m.impl("batched_assignment", &batched_assignment_cpu);
  m.impl("quick_gelu", &quick_gelu_cpu);
  m.impl("quick_gelu_backward", &quick_gelu_backward_cpu);
  m.impl("roi_align_max", &roi_align_max_cpu);
  m.impl("roi_align_max_backward", &roi_align_max_backward_cpu);
  m.impl("trajectory_attention", &trajectory_attention_cpu);
  m.impl("trajectory_attention_backward", &trajectory_attention_backward_cpu);
}

#ifdef STOA_CUDA_TOOLKIT
TORCH_LIBRARY_IMPL(stoa, CUDA, m) {
  m.impl("batched_assignment", &batched_assignment_cuda);
  m.impl("quick_gelu", &quick_gelu_cuda);
  m.impl("quick_gelu_backward", &quick_gelu_backward_cuda);
  m.impl("roi_align_max", &roi_align_max_cuda);
  m.impl("roi_align_max_backward", &roi_align_max_backward_cuda);
  m.impl("trajectory_attention", &trajectory_attention_cuda);
  m.impl("trajectory_attention_backward", &trajectory_attention_backward_cuda);
}
#endif

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
