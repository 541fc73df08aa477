RATES = {"gold": 0.25}
