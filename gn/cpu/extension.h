// What the two operators of the extension share.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/library.h>

#include "problem.h"

namespace gn {

using at::Tensor;
using Given = std::optional<Tensor>;
using Kernel = void (*)(const Problem*);
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* activations[] = {nullptr, "relu", "silu", "gelu"};

// The kernels of a normalization by element type and by whether the channels are innermost. extension.py sets them.
using Kernels = Kernel[3][2];
Kernels group_kernels, batch_kernels;

int64_t code(at::ScalarType element) {
    return element == at::kFloat ? 0 : element == at::kBFloat16 ? 1 : 2;
}

// The functions of gn/layout.py and Call.parameter_dtype of gn/call.py.

bool channels_innermost(const Tensor& x) {
    if (x.dim() < 3) return false;
    int64_t stride = 1;
    const auto agrees = [&](int64_t axis) {
        const bool result = x.size(axis) == 1 || x.stride(axis) == stride;
        stride *= x.size(axis);
        return result;
    };
    if (!agrees(1)) return false;
    for (int64_t axis = x.dim() - 1; axis >= 2; --axis)
        if (!agrees(axis)) return false;
    return agrees(0);
}

Tensor dense(const Tensor& x) { return x.is_contiguous() || channels_innermost(x) ? x : x.contiguous(); }

Tensor like(const Tensor& tensor, const Tensor& x) {
    return tensor.strides() == x.strides() ? tensor : at::empty_like(x, tensor.options()).copy_(tensor);
}

at::ScalarType parameter_dtype(const Tensor& weight, const Tensor& bias) {
    return weight.defined() ? weight.scalar_type() : bias.defined() ? bias.scalar_type() : at::kFloat;
}

const void* read(const Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr() : nullptr; }
void* written(const Tensor& tensor) { return tensor.defined() ? tensor.mutable_data_ptr() : nullptr; }
Tensor contiguous(const Tensor& tensor) { return tensor.defined() ? tensor.contiguous() : tensor; }

// Sets the fields that forward and backward share, and calls the kernel.
void run(const Kernels& kernels, Problem& problem, const Tensor& x, const Tensor& weight, const Tensor& bias) {
    const Tensor weights = contiguous(weight), biases = contiguous(bias);
    problem.parameter = code(parameter_dtype(weight, bias));
    problem.threads = at::get_num_threads();
    problem.samples = x.size(0), problem.channels = x.size(1);
    problem.positions = x.numel() / (problem.samples * problem.channels);
    problem.x = read(x), problem.weight = read(weights), problem.bias = read(biases);
    kernels[code(x.scalar_type())][problem.positions == 1 || !x.is_contiguous()](&problem);
}

// Allocates the gradients, calls run(problem), which sets further fields and runs a kernel, and returns the gradients. One
// that is not requested is undefined. `other` is the gradient of the second output, if there is one; `saved` is what
// saved_residual of gn/call.py returns.
template <class Run>
Gradients gradients(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& saved, int64_t activation,
                    const Tensor& upstream, const Tensor& other, const Tensor& statistics, bool needs_dx, Run run) {
    const Tensor dy = like(upstream, x), found = contiguous(statistics);
    const Tensor other_dy = other.defined() ? like(other, x) : other;
    const Tensor residual = saved.defined() ? like(saved, x) : saved;
    const Tensor dx = needs_dx ? at::empty_like(x) : Tensor(), dresidual = saved.defined() ? at::empty_like(x) : saved;
    const Tensor dweight = at::empty({x.size(1)}, x.options().dtype(parameter_dtype(weight, bias)));
    const Tensor dbias = at::empty_like(dweight);
    Problem problem{};
    problem.activation = activation;
    problem.residual = read(residual);
    problem.statistics = static_cast<float*>(found.data_ptr());
    problem.dy = read(dy), problem.other_dy = read(other_dy);
    problem.dx = written(dx), problem.dresidual = written(dresidual);
    problem.dweight = written(dweight), problem.dbias = written(dbias);
    run(problem);
    return {dx, dweight, dbias, dresidual};
}

// The rules of gn/dispatch.py.

// Whether a mode, a tracer or a transformation of torch.func must see the operators that are called.
bool is_intercepted() {
    return !(c10::impl::tls_local_dispatch_key_set().included_ - c10::default_included_set).empty();
}

// Whether every tensor that is defined is ordinary memory of the CPU. Whatever is lazy, wrapped or laid out in another
// way has further dispatch keys.
template <class... Tensors>
bool are_plain(const Tensors&... tensors) {
    using namespace c10;
    static const DispatchKeySet plain = at::empty({0}).key_set() - autograd_dispatch_keyset_with_ADInplaceOrView;
    return (tensors.key_set() | ...) - autograd_dispatch_keyset_with_ADInplaceOrView == plain;
}

// Whether a tensor has a gradient of forward-mode differentiation.
template <class... Tensors>
bool have_tangents(const Tensors&... tensors) {
    return ((tensors.defined() && tensors._fw_grad(0).defined()) || ...);
}

// Whether every parameter that is defined is a valid weight or bias of `x`.
bool are_parameters(const Tensor& x, const Tensor& weight, const Tensor& bias) {
    const auto element = x.scalar_type();
    for (const Tensor& parameter : {weight, bias})
        if (parameter.defined() &&
            !(parameter.dim() == 1 && parameter.size(0) == x.size(1) &&
              (parameter.scalar_type() == element || parameter.scalar_type() == at::kFloat)))
            return false;
    return !weight.defined() || !bias.defined() || weight.scalar_type() == bias.scalar_type();
}

// Whether a residual can be added to `x`.
bool is_addend(const Tensor& x, const Tensor& residual) {
    return !residual.defined() || (residual.scalar_type() == x.scalar_type() && residual.sizes() == x.sizes());
}

// The backward pass of a node that saved {x, statistics, weight, bias, saved residual}. `compute` calls the kernels,
// `in_python` the operator of gn that can be differentiated and transformed. Returns the gradients of x, weight, bias and
// residual, undefined where there are none; nothing if neither output has a gradient.
template <class Compute, class InPython>
std::optional<Gradients> node_gradients(const variable_list& saved, const variable_list& upstream, bool has_residual,
                                        bool needs_dx, Compute compute, InPython in_python) {
    const Tensor second = upstream.size() > 1 ? upstream[1] : Tensor();
    Tensor dy = upstream[0].defined() ? upstream[0] : second, other = upstream[0].defined() ? second : Tensor();
    if (!dy.defined()) return std::nullopt;
    const Tensor &x = saved[0], &statistics = saved[1], &weight = saved[2], &bias = saved[3], &residual = saved[4];
    // Python handles gradients that are differentiated or transformed, and tensors that are not plain.
    const bool special = at::GradMode::is_enabled() || is_intercepted() ||
                         !are_plain(dy, other, x, statistics, weight, bias, residual) || have_tangents(dy, other);
    // Without an activation the upstream gradient is returned as the gradient of the residual: it needs the sum.
    if (other.defined() && (special || (has_residual && !residual.defined()))) dy = dy.add(other), other = Tensor();
    auto [dx, dweight, dbias, dresidual] = special ? in_python(dy) : compute(dy, other);
    // The operators return empty tensors where autograd expects undefined ones.
    if (!needs_dx) dx = Tensor();
    if (!weight.defined()) dweight = Tensor();
    if (!bias.defined()) dbias = Tensor();
    if (!residual.defined()) dresidual = has_residual ? dy : Tensor();
    return Gradients{dx, dweight, dbias, dresidual};
}

Given given(const Tensor& tensor) { return tensor.defined() ? Given(tensor) : std::nullopt; }

std::optional<std::string_view> name(int64_t activation) {
    return activation ? std::optional<std::string_view>(activations[activation]) : std::nullopt;
}

}  // namespace gn
