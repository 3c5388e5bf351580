class TurboQuantMSE:
    def __init__(self, d, bit_width, seed, device):
        self.d, self.bit_width, self.seed = d, bit_width, seed
