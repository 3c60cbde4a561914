-- Apply one batch of one writer's records, each exactly once. Returns the sequence of the last record applied so far.
-- KEYS: high-water mark, cells of the epoch, sealed epochs of the writer.
-- ARGV: sequence of the batch's first and last record; seconds that cells live; the epoch; sequence of its SEAL (0 = none)
-- and what is noted for it, "began,ended"; then sequence, field and quantity of each increment.
local mark = tonumber(redis.call('GET', KEYS[1]) or '0')
if not mark or mark < 0 then
    return redis.error_reply('ERR the high-water mark is no count')
end
-- A batch further on than what is known would leave a hole: the writer has to come back with what is missing.
local first, last = tonumber(ARGV[1]), tonumber(ARGV[2])
if first > mark + 1 or last <= mark then
    return mark
end

-- Numbers of this language are exact to 2^53 only: sums are two halves, of the nine last digits and of those before.
local function halves(digits)
    return tonumber(digits:sub(1, -10)) or 0, tonumber(digits:sub(-9))
end

-- An error does not take back what a script did before it: everything is looked at before the first effect.
local fields, high, low = {}, {}, {}
for i = 7, #ARGV, 3 do
    local field, quantity = ARGV[i + 1], ARGV[i + 2]
    if #quantity > 15 or not quantity:match('^%d+$') then
        return redis.error_reply('ERR a quantity is no number of at most 15 digits')
    end
    if tonumber(ARGV[i]) > mark then
        if not high[field] then
            fields[#fields + 1] = field
            high[field], low[field] = 0, 0
        end
        local more_high, more_low = halves(quantity)
        high[field], low[field] = high[field] + more_high, low[field] + more_low
    end
end
-- A sealed epoch was put back from its ledger file, with all that it amounts to.
local is_whole = redis.call('HGET', KEYS[3], ARGV[4])
local sums = {}
if #fields > 0 and not is_whole then
    for i, before in ipairs(redis.call('HMGET', KEYS[2], unpack(fields))) do
        local field = fields[i]
        before = before or '0'
        if #before > 18 or not before:match('^%d+$') then
            return redis.error_reply('ERR a cell holds no number of at most 18 digits')
        end
        local more_high, more_low = halves(before)
        local sum_low = low[field] + more_low
        local carried = math.floor(sum_low / 1000000000)
        local sum_high = high[field] + more_high + carried
        sum_low = sum_low - carried * 1000000000
        sums[#sums + 1] = field
        sums[#sums + 1] = sum_high > 0 and string.format('%d%09d', sum_high, sum_low) or string.format('%d', sum_low)
    end
end

-- Sums and not increments: a Redis that died in the middle of writing this down may keep a part of it in its file and run
-- that part again after its next death. The batch that is shipped again covers this one, and its sums replace that part.
local is_seal = tonumber(ARGV[5]) > mark
if #sums > 0 then
    redis.call('HSET', KEYS[2], unpack(sums))
end
if is_seal then
    redis.call('HSET', KEYS[3], ARGV[4], ARGV[6])
end
-- What is noted of epochs outlives their cells: who forgets them finds them there (forget.lua).
if #sums > 0 or is_seal then
    redis.call('EXPIRE', KEYS[2], ARGV[3])
    redis.call('HSETNX', KEYS[3], 'oldest', ARGV[4])
    redis.call('EXPIRE', KEYS[3], string.format('%d', 2 * tonumber(ARGV[3])))
end
-- A new one, and the old ones go: more than come, and no more than a call has time for.
if is_seal then
    local epoch, cells = tonumber(ARGV[4]), KEYS[2]:sub(1, -#ARGV[4] - 1)
    local from = tonumber(ARGV[6]:match('%d+$')) - tonumber(ARGV[3]) * 1000
    local oldest = tonumber(redis.call('HGET', KEYS[3], 'oldest'))
    local stop = math.min(epoch, oldest + 16)
    while oldest < stop do
        local number = string.format('%d', oldest)
        local times = redis.call('HGET', KEYS[3], number)
        if times then
            if tonumber(times:match('%d+$')) >= from then
                break
            end
            redis.call('HDEL', KEYS[3], number)
            redis.call('DEL', cells .. number)
        end
        oldest = oldest + 1
    end
    redis.call('HSET', KEYS[3], 'oldest', string.format('%d', oldest))
end
redis.call('SET', KEYS[1], ARGV[2])
return last
