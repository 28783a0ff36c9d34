#include "engine/ops/swiglu.h"

namespace engine::ops {
namespace {

void check_shapes(const ConstTensor& a, const ConstTensor& b) {
  ENSURE(a.num_elements() == b.num_elements() && a.is_contiguous() && b.is_contiguous(), "operands have ",
         a.num_elements(), " and ", b.num_elements(), " elements but must be contiguous and of one shape");
}

}  // namespace

void swiglu_forward(const SwigluForward& a) {
  check_shapes(a.y_RF, a.gate_RF);
  check_shapes(a.y_RF, a.up_RF);
  DISPATCH(a.y_RF.device, swiglu_forward, a);
}

void swiglu_backward(const SwigluBackward& a) {
  check_shapes(a.dy_RF, a.gate_RF);
  check_shapes(a.dy_RF, a.up_RF);
  check_shapes(a.dy_RF, a.dgate_RF);
  check_shapes(a.dy_RF, a.dup_RF);
  DISPATCH(a.dy_RF.device, swiglu_backward, a);
}

}  // namespace engine::ops
