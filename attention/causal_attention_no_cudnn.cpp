// A build without cuDNN.
#include "attention/causal_attention_cudnn.h"

namespace attention::cuda {

bool cudnn_attention_forward(const CausalAttentionForward&) {
  return false;
}
bool cudnn_attention_backward(const CausalAttentionBackward&) {
  return false;
}

std::string cudnn_library() {
  return "";
}

const CudnnUse& cudnn_use() {
  static const CudnnUse use{0, "a build without cuDNN"};
  return use;
}

}  // namespace attention::cuda
