#!/usr/bin/env bash
# Make everything P1's report needs: both generators, the measures of their pictures, and the pictures it shows.
#
#   bash scripts/train_p1.sh                                   # preset cpu
#   bash scripts/train_p1.sh --preset full --device cuda
#   bash scripts/train_p1.sh --steps 4000                      # other options go to p1_gan/train.py
#
# Also --data-root, --output and --seed. Stopped, the same command goes on; what is trained or measured is not done
# again. The table of what each ingredient of B brings takes much longer and is made by p1_gan/ablation.py.
source "$(dirname "${BASH_SOURCE[0]}")/options.sh"

sampling_seeds="1 2" # how far the measures depend on the latents drawn
[[ $preset != sample ]] || sampling_seeds=""
for method in A B; do
    folder="$preset/p1_${method}_seed$seed"
    weights="$runs/$folder/weights.safetensors"
    run p1_gan/train.py --method $method --preset "$preset" --data-root "$data_root" ${options[@]+"${options[@]}"}
    finished "$folder"
    measure=(p1_gan/evaluate.py --checkpoint "$weights" --data-root "$data_root")
    run "${measure[@]}" --seed 0 --memorisation
    for sampling_seed in $sampling_seeds; do
        run "${measure[@]}" --seed $sampling_seed
    done
    pictures=() # all of them of the last, the first 32 of the others
    [[ $method == B ]] || pictures=(grid)
    run p1_gan/figures.py ${pictures[@]+"${pictures[@]}"} --checkpoint "$weights"
done
