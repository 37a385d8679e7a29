// Cooperative matrices of 16 × 16: halves in, f32 out. T is the edge of a tile.
// enable f16
// enable wgpu_cooperative_matrix
const T = 16u;
alias MatA = coop_mat16x16<f16, A>;
alias MatB = coop_mat16x16<f16, B>;
alias MatC = coop_mat16x16<f32, C>;
