// Cooperative matrices of 8 × 8: halves in, f32 out. T is the edge of a tile.
// enable f16
// enable wgpu_cooperative_matrix
const T = 8u;
alias MatA = coop_mat8x8<f16, A>;
alias MatB = coop_mat8x8<f16, B>;
alias MatC = coop_mat8x8<f32, C>;
